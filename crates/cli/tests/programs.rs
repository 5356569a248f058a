//! Unmodified programs talk to each other over the stack: two namespaces, one link, `ferronet up`.

mod common;

use common::user::{User, Who};
use common::{Ended, run};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

/// Two hosts and a cable; the programs follow.
const HOSTS: &str = r#"
timeout = "50s"
[[namespace]]
name = "server"
addresses = { eth0 = ["10.0.0.1/24", "fd00::1/64"] }
[[namespace]]
name = "client"
addresses = { eth0 = ["10.0.0.2/24", "fd00::2/64"] }
[[link]]
ends = ["server:eth0", "client:eth0"]
"#;

/// Two hosts, the programs between them, and what must come out.
struct Lab {
    name: &'static str,
    needs: &'static [&'static str],
    programs: String,
    files: Files,
    check: fn(&Ended),
}

/// Plays a lab as somebody; false when something it needs is missing (and recorded as skipped).
fn play(lab: &Lab, who: &Who) -> bool {
    let test = format!("{}{}", lab.name, who.suffix());
    if lab.needs.iter().any(|n| who.program(&test, n).is_none()) || !who.can_run(&test) {
        return false;
    }
    lab.files.give_to(who);
    let file = lab.files.write("lab.toml", format!("{HOSTS}{}", lab.programs).as_bytes());
    let e = run(who.ferronet(&["up", &file]));
    assert_eq!(e.code, 0, "{test}: {}\n{}", e.out, e.err);
    (lab.check)(&e);
    true
}

/// A directory that every user may read, removed at the end.
struct Files(PathBuf);

impl Files {
    fn new(test: &str) -> Files {
        use std::os::unix::fs::PermissionsExt;
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("ferronet-{test}-{}-{n}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a directory for the test's files");
        std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o755)).expect("permissions");
        Files(dir)
    }

    /// Everything is that user's from now on.
    fn give_to(&self, who: &Who) {
        if let Who::User(u) = who {
            let mut c = std::process::Command::new("chown");
            c.args(["-R", &u.name]).arg(&self.0);
            assert_eq!(run(c).code, 0, "chown to {}", u.name);
        }
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }

    fn write(&self, name: &str, content: &[u8]) -> String {
        std::fs::write(self.0.join(name), content).expect("writing a file of the test");
        self.path(name)
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Bytes that differ from place to place.
fn noise(len: usize) -> Vec<u8> {
    let mut x = 1u64;
    let mut step = || {
        x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (x >> 33) as u8
    };
    (0..len).map(|_| step()).collect()
}

/// nginx with two workers that serves a directory on port 80.
fn nginx(f: &Files) -> String {
    let conf = format!(
        "worker_processes 2; daemon off; error_log stderr warn; pid {dir}/nginx.pid;\n\
         events {{ worker_connections 512; }}\n\
         http {{ access_log off; client_body_temp_path {dir}/body; proxy_temp_path {dir}/proxy;\n\
         fastcgi_temp_path {dir}/fastcgi; uwsgi_temp_path {dir}/uwsgi; scgi_temp_path {dir}/scgi;\n\
         sendfile on; server {{ listen 80; listen [::]:80; root {dir}/www; }} }}\n",
        dir = f.0.display()
    );
    std::fs::create_dir_all(f.0.join("www")).expect("document root");
    let conf = f.write("nginx.conf", conf.as_bytes());
    format!(
        "[[program]]\nname = \"nginx\"\nns = \"server\"\ncmd = [\"nginx\", \"-e\", \"stderr\", \"-c\", \"{conf}\"]\nready = \"tcp:80\"\nstop_at_end = true\n"
    )
}

/// A shell command on the client after `server` is ready.
fn client(name: &str, after: &str, script: &str) -> String {
    format!(
        "[[program]]\nname = \"{name}\"\nns = \"client\"\nafter = \"{after}\"\ncmd = [\"sh\", \"-ec\", '''{script}''']\n"
    )
}

/// A server that is ended with the lab.
fn server(name: &str, ready: &str, cmd: &str) -> String {
    format!(
        "[[program]]\nname = \"{name}\"\nns = \"server\"\nready = \"{ready}\"\nstop_at_end = true\ncmd = {cmd}\n"
    )
}

/// These lines came out of some program.
fn lines(e: &Ended, want: &[&str]) {
    for w in want {
        assert!(e.out.contains(&format!("| {w}\n")), "{w}: {}", e.out);
    }
}

fn nginx_and_curl() -> Lab {
    let name = "nginx_and_curl";
    let f = Files::new(name);
    let mut programs = nginx(&f);
    f.write("www/big", &noise(64 << 20));
    f.write("www/small", b"hello\n");
    let big = f.path("www/big");
    programs += &client(
        "get",
        "nginx",
        &format!(
            r#"
            want=$(sha256sum < {big}); got=$(curl -sf http://10.0.0.1/big | sha256sum); test "$want" = "$got"; echo big is equal
            got=$(curl -sf http://[fd00::1]/big | sha256sum); test "$want" = "$got"; echo big is equal over IPv6
            i=0; while [ $i -lt 200 ]; do test "$(curl -sf http://10.0.0.1/small)" = hello; i=$((i+1)); done; echo 200 in a row
            test $(curl -sf --parallel --parallel-max 32 http://10.0.0.1/small?[1-32] | grep -c hello) = 32; echo 32 at once
            test $(curl -sf --parallel --parallel-max 32 http://[fd00::1]/small?[1-32] | grep -c hello) = 32; echo 32 at once over IPv6
            test $(curl -sf -w '%{{num_connects}}\n' http://10.0.0.1/small http://10.0.0.1/small | grep -c '^0$') = 1; echo keep-alive
            "#
        ),
    );
    fn check(e: &Ended) {
        lines(
            e,
            &[
                "big is equal",
                "big is equal over IPv6",
                "200 in a row",
                "32 at once",
                "32 at once over IPv6",
                "keep-alive",
            ],
        );
    }
    Lab { name, needs: &["nginx", "curl"], programs, files: f, check }
}

fn nginx_and_wrk() -> Lab {
    let name = "nginx_and_wrk";
    let f = Files::new(name);
    let mut programs = nginx(&f);
    f.write("www/small", b"hello\n");
    programs += &client("keep", "nginx", "wrk -t1 -c8 -d1s http://10.0.0.1/small");
    programs += &client("close", "keep", "wrk -t1 -c8 -d1s -H 'Connection: close' http://10.0.0.1/small");
    fn check(e: &Ended) {
        assert_eq!(e.out.matches("Requests/sec:").count(), 2, "{}", e.out);
        assert!(!e.out.contains("Non-2xx") && !e.out.contains("Socket errors"), "{}", e.out);
    }
    Lab { name, needs: &["nginx", "wrk"], programs, files: f, check }
}

/// `None` without ssh-keygen.
fn ssh_copies_a_mebibyte() -> Option<Lab> {
    let name = "ssh_copies_a_mebibyte";
    let f = Files::new(name);
    ferronet_sim::need::program(name, "ssh-keygen")?;
    let (key, data) = (f.path("key"), f.write("data", &noise(1 << 20)));
    let mut keygen = std::process::Command::new("ssh-keygen");
    keygen.args(["-q", "-t", "ed25519", "-N", "", "-f", &key]);
    assert_eq!(run(keygen).code, 0);
    // sshd wants /run/sshd, and /run is the session's own. It takes an account whose line in /etc/shadow it may not read
    // for a locked one; an ordinary user may put another file there in his own mount namespace.
    let shadow = f.write("shadow", b"root:*:19000:0:99999:7:::\n");
    let cmd = format!(
        "[\"sh\", \"-c\", \"mkdir -p -m 755 /run/sshd; mount --bind {shadow} /etc/shadow; exec $(command -v sshd || echo /usr/sbin/sshd) -D -e -f /dev/null -h {key} \
         -o AuthorizedKeysFile={key}.pub -o StrictModes=no -o UsePAM=no\"]"
    );
    let ssh = format!(
        "ssh -F none -i {key} -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o BatchMode=yes"
    );
    let programs = server("sshd", "tcp:22", &cmd)
        + &client(
            "copy",
            "sshd",
            &format!(
                "{ssh} root@10.0.0.1 cat < {data} > {data}.copy; cmp {data} {data}.copy; echo equal; \
                 {ssh} root@fd00::1 cat {data} > {data}.six; cmp {data} {data}.six; echo equal over IPv6"
            ),
        );
    Some(Lab {
        name,
        needs: &["sshd", "ssh"],
        programs,
        files: f,
        check: |e| lines(e, &["equal", "equal over IPv6"]),
    })
}

fn dns_over_udp_and_tcp() -> Lab {
    let name = "dns_over_udp_and_tcp";
    let programs = server(
        "dnsmasq",
        "udp:53",
        "\"dnsmasq -k -C /dev/null --no-resolv --no-hosts --user=root --pid-file= --address=/example.test/192.0.2.7\"",
    ) + &client(
        "dig",
        "dnsmasq",
        "echo udp $(dig +short @10.0.0.1 example.test); echo tcp $(dig +tcp +short @10.0.0.1 example.test); \
         echo six $(dig +short @fd00::1 example.test)",
    );
    let check = |e: &Ended| lines(e, &["udp 192.0.2.7", "tcp 192.0.2.7", "six 192.0.2.7"]);
    Lab { name, needs: &["dnsmasq", "dig"], programs, files: Files::new(name), check }
}

fn python_asyncio() -> Lab {
    let name = "python_asyncio";
    let f = Files::new(name);
    let listens = f.write(
        "server.py",
        b"import asyncio\n\
          async def echo(r, w):\n    while data := await r.read(65536):\n        w.write(data); await w.drain()\n    w.close()\n\
          async def main():\n    s = await asyncio.start_server(echo, '0.0.0.0', 7)\n    await s.serve_forever()\n\
          asyncio.run(main())\n",
    );
    let asks = f.write(
        "client.py",
        b"import asyncio, os\n\
          async def one(n):\n    r, w = await asyncio.open_connection('10.0.0.1', 7)\n    data = os.urandom(n)\n\
          \x20   async def send():\n        w.write(data); await w.drain(); w.write_eof()\n\
          \x20   got, _ = await asyncio.gather(r.read(-1), send())\n    assert got == data, (len(got), n); w.close()\n\
          async def main():\n    await asyncio.gather(*(one(1000 * i) for i in range(1, 51)))\n    await one(5_000_000)\n    print('all equal')\n\
          asyncio.run(main())\n",
    );
    let programs = server("server", "tcp:7", &format!("[\"python3\", \"{listens}\"]"))
        + &client("client", "server", &format!("python3 {asks}"));
    Lab { name, needs: &["python3"], programs, files: f, check: |e| lines(e, &["all equal"]) }
}

fn iperf3_tcp_and_udp() -> Lab {
    let name = "iperf3_tcp_and_udp";
    // Between two runs the server does not listen for a moment. Nothing else is tried again.
    let ask = |arguments: &str| {
        format!(
            "for i in $(seq 100); do out=$(iperf3 -t 1 {arguments} 2>&1) && break\n\
             case $out in *'unable to connect'*|*'server is busy'*) sleep 0.1;; *) break;; esac\n\
             done; echo \"$out\""
        )
    };
    let programs = server("server", "tcp:5201", "\"iperf3 -s\"")
        + &client("tcp", "server", &ask("-c 10.0.0.1"))
        + &client("reverse", "tcp", &ask("-c 10.0.0.1 -R"))
        + &client("four", "reverse", &ask("-c 10.0.0.1 -P 4"))
        + &client("udp", "four", &ask("-c 10.0.0.1 -u -b 20M"))
        + &client("six", "udp", &ask("-6 -c fd00::1"));
    let check = |e: &Ended| assert_eq!(e.out.matches("iperf Done.").count(), 5, "{}", e.out);
    Lab { name, needs: &["iperf3"], programs, files: Files::new(name), check }
}

fn redis_and_its_benchmark() -> Lab {
    let name = "redis_and_its_benchmark";
    let cmd = "\"redis-server --port 6379 --bind 10.0.0.1 --save '' --protected-mode no --dir /tmp\"";
    let programs = server("server", "tcp:6379", cmd)
        + &client("bench", "server", "redis-benchmark -h 10.0.0.1 -n 5000 -c 20 -t set,get -P 4 -q");
    let check = |e: &Ended| assert!(e.out.contains("SET:") && e.out.contains("GET:"), "{}", e.out);
    Lab { name, needs: &["redis-server", "redis-benchmark"], programs, files: Files::new(name), check }
}

fn ping_and_our_own_tools() -> Lab {
    let name = "ping_and_our_own_tools";
    let programs = server("serve", "tcp:80", "\"ferronet tool serve --port 80\"")
        + &client("ping", "serve", "ping -c 3 -i 0.2 10.0.0.1; ping -c 2 -i 0.2 fd00::1")
        + "[[program]]\nname = \"echo\"\nns = \"client\"\nafter = \"ping\"\ncmd = \"ferronet tool ping 10.0.0.1 -c 2 -i 0.1\"\n\
           [[program]]\nname = \"fetch\"\nns = \"client\"\nafter = \"ping\"\ncmd = \"ferronet tool fetch http://[fd00::1]/8MiB --sha256\"\n";
    fn check(e: &Ended) {
        assert_eq!(e.out.matches(" 0% packet loss").count(), 2, "{}", e.out);
        for want in ["2 sent, 2 received", "200 OK: 8388608 bytes", "client -> server"] {
            assert!(e.out.contains(want), "{want}: {}", e.out);
        }
    }
    Lab { name, needs: &["ping"], programs, files: Files::new(name), check }
}

/// What people type first: the web server of Python with downloads, uploads and `git clone`, nc in both directions,
/// tracepath.
fn everyday_programs() -> Lab {
    let name = "everyday_programs";
    let f = Files::new(name);
    let web = f.write(
        "web.py",
        b"import functools, http.server, sys\n\
          class H(http.server.SimpleHTTPRequestHandler):\n    protocol_version = 'HTTP/1.1'\n\
          \x20   def do_PUT(self):\n        data = self.rfile.read(int(self.headers['Content-Length']))\n\
          \x20       open(self.translate_path(self.path), 'wb').write(data)\n        self.send_response(201)\n\
          \x20       self.send_header('Content-Length', '0'); self.end_headers()\n    def log_message(self, *a): pass\n\
          http.server.ThreadingHTTPServer(('', 8000), functools.partial(H, directory=sys.argv[1])).serve_forever()\n",
    );
    let (dir, data) = (f.0.display().to_string(), f.write("data", &noise(3 << 20)));
    let programs = server("web", "tcp:8000", &format!("[\"python3\", \"{web}\", \"{dir}\"]"))
        + &server(
            "gets",
            "tcp:9000",
            &format!("[\"sh\", \"-c\", \"nc.openbsd -l 10.0.0.1 9000 > {dir}/got; exec tail -f /dev/null\"]"),
        )
        + &server(
            "gives",
            "tcp:9001",
            &format!("[\"sh\", \"-c\", \"nc.openbsd -N -l 10.0.0.1 9001 < {data}; exec tail -f /dev/null\"]"),
        )
        + &client(
            "web-client",
            "web",
            &format!(
                "curl -sf http://10.0.0.1:8000/data | cmp - {data}; echo downloaded; \
                 curl -sf --http1.1 -T {data} http://10.0.0.1:8000/up; cmp {dir}/up {data}; echo uploaded; \
                 export HOME={dir}; cd {dir}; git init -q repo; cp data repo; \
                 git -C repo -c user.name=x -c user.email=x@example.test add data; \
                 git -C repo -c user.name=x -c user.email=x@example.test commit -qm x; git -C repo update-server-info; \
                 git clone -q http://10.0.0.1:8000/repo/.git clone; cmp clone/data {data}; echo cloned; \
                 tracepath -n 10.0.0.1 | grep -q '10.0.0.1 .*reached'; echo traced"
            ),
        )
        + &client("nc-to", "gets", &format!("nc.openbsd -N 10.0.0.1 9000 < {data}; echo sent"))
        + &client("nc-from", "gives", &format!("nc.openbsd -d 10.0.0.1 9001 | cmp - {data}; echo received"))
        + &client("nc-check", "nc-to", &format!("cmp {dir}/got {data}; echo arrived"));
    let needs = &["python3", "curl", "git", "nc.openbsd", "tracepath"];
    let check = |e: &Ended| {
        lines(e, &["downloaded", "uploaded", "cloned", "traced", "sent", "received", "arrived"]);
    };
    Lab { name, needs, programs, files: f, check }
}

/// traceroute(8) through a router, by UDP, ICMP and TCP: each hop answers each of its three probes.
/// The link has a delay, as traceroute gives up on a probe after three round trips of its neighbours.
fn traceroute_through_a_router() -> Lab {
    let name = "traceroute_through_a_router";
    let programs = "[[namespace]]\nname = \"near\"\naddresses = { e = [\"10.1.0.2/24\", \"fd01::2/64\"] }\n\
         routes = [\"default via 10.1.0.1\", \"default via fd01::1\"]\n\
         [[namespace]]\nname = \"router\"\naddresses = { a = [\"10.1.0.1/24\", \"fd01::1/64\"], \
         b = [\"10.2.0.1/24\", \"fd02::1/64\"] }\n\
         sysctls = { \"net.ipv4.ip_forward\" = 1, \"net.ipv6.conf.all.forwarding\" = 1, \
         \"net.ipv4.icmp_ratelimit\" = 0, \"net.ipv6.icmp.ratelimit\" = 0 }\n\
         [[namespace]]\nname = \"far\"\naddresses = { e = [\"10.2.0.2/24\", \"fd02::2/64\"] }\n\
         routes = [\"default via 10.2.0.1\", \"default via fd02::1\"]\n\
         sysctls = { \"net.ipv4.icmp_ratelimit\" = 0, \"net.ipv6.icmp.ratelimit\" = 0 }\n\
         [[link]]\nends = [\"near:e\", \"router:a\"]\ndelay = \"3ms\"\n[[link]]\nends = [\"router:b\", \"far:e\"]\n\
         [[program]]\nname = \"trace\"\nns = \"near\"\ncmd = [\"sh\", \"-c\", '''\n\
         hops() { traceroute -n \"$@\" | awk -v how=\"$*\" 'NR > 1 { lost += gsub(/\\*/, \"\"); way = way \" \" $2 } \
         END { print \"way\", how way, 0 + lost }'; }\n\
         hops 10.2.0.2; hops -I 10.2.0.2; hops -T 10.2.0.2; hops -6 fd02::2; hops -6 -I fd02::2\n\
         tracepath -n 10.2.0.2 | grep -q 'hops 2 back 2' && echo back\n''']\n"
        .to_owned();
    fn check(e: &Ended) {
        for (how, far) in [
            ("", "10.2.0.2"),
            ("-I ", "10.2.0.2"),
            ("-T ", "10.2.0.2"),
            ("-6 ", "fd02::2"),
            ("-6 -I ", "fd02::2"),
        ] {
            let router = if far.contains(':') { "fd01::1" } else { "10.1.0.1" };
            let want = format!("way {how}{far} {router} {far} 0\n");
            assert!(e.out.contains(&want), "{want}: {}", e.out);
        }
        assert!(e.out.contains("back\n"), "{}", e.out);
    }
    Lab { name, needs: &["traceroute", "tracepath", "awk"], programs, files: Files::new(name), check }
}

/// A test of one lab, played by whoever runs the tests.
macro_rules! plays {
    ($($name:ident $lab:expr;)*) => { $(
        #[test]
        fn $name() {
            if let Some(lab) = $lab.into() {
                let _: Lab = lab;
                play(&lab, &Who::Me);
            }
        }
    )* };
}

mod me {
    use super::*;
    plays! {
        nginx_and_curl super::nginx_and_curl();
        nginx_and_wrk super::nginx_and_wrk();
        ssh_copies_a_mebibyte super::ssh_copies_a_mebibyte();
        dns_over_udp_and_tcp super::dns_over_udp_and_tcp();
        python_asyncio super::python_asyncio();
        iperf3_tcp_and_udp super::iperf3_tcp_and_udp();
        redis_and_its_benchmark super::redis_and_its_benchmark();
        ping_and_our_own_tools super::ping_and_our_own_tools();
        everyday_programs super::everyday_programs();
        traceroute_through_a_router super::traceroute_through_a_router();
    }
}

/// The same as an ordinary user who has subordinate ids, so that servers can drop their privileges.
#[test]
fn as_an_ordinary_user() {
    let Some(user) = User::new("as_an_ordinary_user", true) else { return };
    let who = Who::User(user);
    let labs = [
        Some(nginx_and_curl()),
        Some(nginx_and_wrk()),
        ssh_copies_a_mebibyte(),
        Some(dns_over_udp_and_tcp()),
        Some(python_asyncio()),
        Some(iperf3_tcp_and_udp()),
        Some(redis_and_its_benchmark()),
        Some(ping_and_our_own_tools()),
        Some(everyday_programs()),
        Some(traceroute_through_a_router()),
    ];
    for lab in labs.iter().flatten() {
        play(lab, &who);
    }
}

/// Without ranges for newuidmap there is only root inside; what does not change its user works all the same (dnsmasq and
/// nginx insist on setgroups(2)).
#[test]
fn as_an_ordinary_user_without_subordinate_ids() {
    let Some(user) = User::new("as_an_ordinary_user_without_subordinate_ids", false) else { return };
    let who = Who::User(user);
    for lab in [iperf3_tcp_and_udp(), python_asyncio(), redis_and_its_benchmark(), ping_and_our_own_tools()] {
        play(&lab, &who);
    }
}
