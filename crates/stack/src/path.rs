//! The packet path on one page. Read it top to bottom; every name is a function of the kernel.
//!
//! ```text
//! RECEIVE                                                        module
//!   World::backend_rx / veth peer / lo                           world
//!     netif_rx                    backlog, netdev_max_backlog    dev::rx
//!   World::run_softirq -> net_rx_action                          world, dev::rx
//!     napi_gro_receive            devices with gro               dev::gro
//!     netif_receive_skb           taps, eth_type_trans           dev::rx
//!       arp_rcv -> arp_process -> neigh_update                   neigh::arp
//!       ip_rcv                    ip_rcv_core      PREROUTING    ipv4::input
//!         ip_rcv_finish -> ip_route_input                        ipv4::route, fib
//!           ip_local_deliver      ip_defrag        INPUT         ipv4::input, ipv4::frag
//!             icmp_rcv | udp_rcv | tcp_v4_rcv | raw              ipv4::icmp, udp, tcp, sock
//!           ip_forward            ttl, mtu         FORWARD       ipv4::forward
//!             ip_output                                          ipv4::output
//!       ipv6_rcv                  the same with v6 names         ipv6::input
//!         ip6_route_input -> ip6_input, ip6_mc_input, ip6_forward ipv6::route, input, forward
//!           extension headers, ipv6_frag_rcv                     ipv6::exthdrs, reassembly
//!             icmpv6_rcv -> ndisc_rcv | tcp_v6_rcv | udpv6_rcv   ipv6::icmp, ndisc
//!
//! TRANSMIT
//!   tcp/udp/raw/icmp
//!     ip_queue_xmit -> ip_local_out                OUTPUT        ipv4::output (ip6_xmit: ipv6::output)
//!       ip_output                                  POSTROUTING   ipv4::output
//!         ip_finish_output        ip_fragment, GSO               ipv4::output, ipv4::frag
//!           neigh_output          waits for ARP or ND            neigh::output
//!             dev_queue_xmit      GSO, checksum, netem           dev::tx
//!               dev_hard_start_xmit                              dev::tx
//!                 lo -> netif_rx; veth -> the peer's netif_rx; tap -> World::take_backend_tx
//!
//! TIME
//!   World::set_now; run_softirq -> Namespace::on_timeout: neighbours, reassembly, TCP, DAD, links
//!
//! ENDS
//!   env.drop(packet, DropReason) | env.consume(packet): nothing else
//! ```
