//! Receiving whole messages, for all kinds that do (`skb_recv_datagram`).
