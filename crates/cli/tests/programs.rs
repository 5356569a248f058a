//! Unmodified programs talk to each other over the stack: two namespaces, one link, `ferronet up`.

mod common;

use common::{Ended, can_run, ferronet, lab, run};
use std::path::PathBuf;

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

/// Runs a lab of two hosts; `None` when something it needs is missing.
fn hosts(test: &str, needs: &[&str], programs: &str) -> Option<Ended> {
    for n in needs {
        ferronet_sim::need::program(test, n)?;
    }
    if !can_run(test) {
        return None;
    }
    let file = lab(test, &format!("{HOSTS}{programs}"));
    let e = run(ferronet(&["up", file.to_str().expect("a path in UTF-8")]));
    assert_eq!(e.code, 0, "{}\n{}", e.out, e.err);
    Some(e)
}

/// A directory that every user may read, removed at the end.
struct Files(PathBuf);

impl Files {
    fn new(test: &str) -> Files {
        use std::os::unix::fs::PermissionsExt;
        let dir = std::env::temp_dir().join(format!("ferronet-{test}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a directory for the test's files");
        std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o755)).expect("permissions");
        Files(dir)
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

#[test]
fn nginx_and_curl() {
    let test = "nginx_and_curl";
    let f = Files::new(test);
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
            test $(curl -sf -w '%{{num_connects}}\n' http://10.0.0.1/small http://10.0.0.1/small | grep -c '^0$') = 1; echo keep-alive
            "#
        ),
    );
    let Some(e) = hosts(test, &["nginx", "curl"], &programs) else { return };
    for want in ["big is equal", "big is equal over IPv6", "200 in a row", "32 at once", "keep-alive"] {
        assert!(e.out.contains(&format!("| {want}\n")), "{want}: {}", e.out);
    }
}

#[test]
fn nginx_and_wrk() {
    let test = "nginx_and_wrk";
    let f = Files::new(test);
    let mut programs = nginx(&f);
    f.write("www/small", b"hello\n");
    programs += &client("keep", "nginx", "wrk -t1 -c8 -d1s http://10.0.0.1/small");
    programs += &client("close", "keep", "wrk -t1 -c8 -d1s -H 'Connection: close' http://10.0.0.1/small");
    let Some(e) = hosts(test, &["nginx", "wrk"], &programs) else { return };
    assert_eq!(e.out.matches("Requests/sec:").count(), 2, "{}", e.out);
    assert!(!e.out.contains("Non-2xx") && !e.out.contains("Socket errors"), "{}", e.out);
}

#[test]
fn ssh_copies_a_mebibyte() {
    let test = "ssh_copies_a_mebibyte";
    let f = Files::new(test);
    if ferronet_sim::need::program(test, "ssh-keygen").is_none() {
        return;
    }
    let (key, data) = (f.path("key"), f.write("data", &noise(1 << 20)));
    let mut keygen = std::process::Command::new("ssh-keygen");
    keygen.args(["-q", "-t", "ed25519", "-N", "", "-f", &key]);
    assert_eq!(run(keygen).code, 0);
    // sshd wants /run/sshd, and /run is the session's own.
    let programs = format!(
        "[[program]]\nname = \"sshd\"\nns = \"server\"\nready = \"tcp:22\"\nstop_at_end = true\n\
         cmd = [\"sh\", \"-c\", \"mkdir -p -m 755 /run/sshd; exec $(command -v sshd || echo /usr/sbin/sshd) -D -e -f /dev/null -h {key} \
         -o AuthorizedKeysFile={key}.pub -o StrictModes=no -o UsePAM=no\"]\n"
    ) + &client(
        "copy",
        "sshd",
        &format!(
            "ssh -F none -i {key} -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o BatchMode=yes \
             root@10.0.0.1 cat < {data} > {data}.copy; cmp {data} {data}.copy; echo equal"
        ),
    );
    let Some(e) = hosts(test, &["sshd", "ssh"], &programs) else { return };
    assert!(e.out.contains("| equal\n"), "{}", e.out);
}

#[test]
fn dns_over_udp_and_tcp() {
    let programs = "[[program]]\nname = \"dnsmasq\"\nns = \"server\"\nready = \"udp:53\"\nstop_at_end = true\n\
         cmd = \"dnsmasq -k -C /dev/null --no-resolv --no-hosts --user=root --pid-file= --address=/example.test/192.0.2.7\"\n"
        .to_owned()
        + &client(
            "dig",
            "dnsmasq",
            "echo udp $(dig +short @10.0.0.1 example.test); echo tcp $(dig +tcp +short @10.0.0.1 example.test); \
             echo six $(dig +short @fd00::1 example.test)",
        );
    let Some(e) = hosts("dns_over_udp_and_tcp", &["dnsmasq", "dig"], &programs) else { return };
    for want in ["| udp 192.0.2.7\n", "| tcp 192.0.2.7\n", "| six 192.0.2.7\n"] {
        assert!(e.out.contains(want), "{want}{}", e.out);
    }
}

#[test]
fn python_asyncio() {
    let test = "python_asyncio";
    let f = Files::new(test);
    let server = f.write(
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
    let programs = format!(
        "[[program]]\nname = \"server\"\nns = \"server\"\nready = \"tcp:7\"\nstop_at_end = true\ncmd = [\"python3\", \"{server}\"]\n"
    ) + &client("client", "server", &format!("python3 {asks}"));
    let Some(e) = hosts(test, &["python3"], &programs) else { return };
    assert!(e.out.contains("| all equal\n"), "{}", e.out);
}

#[test]
fn iperf3_tcp_and_udp() {
    let server = "[[program]]\nname = \"server\"\nns = \"server\"\nready = \"tcp:5201\"\nstop_at_end = true\ncmd = \"iperf3 -s\"\n";
    let programs = server.to_owned()
        + &client("tcp", "server", "iperf3 -c 10.0.0.1 -t 1")
        + &client("reverse", "tcp", "iperf3 -c 10.0.0.1 -t 1 -R")
        + &client("four", "reverse", "iperf3 -c 10.0.0.1 -t 1 -P 4")
        + &client("udp", "four", "iperf3 -c 10.0.0.1 -t 1 -u -b 20M");
    let Some(e) = hosts("iperf3_tcp_and_udp", &["iperf3"], &programs) else { return };
    assert_eq!(e.out.matches("iperf Done.").count(), 4, "{}", e.out);
}

#[test]
fn redis_and_its_benchmark() {
    let server = "[[program]]\nname = \"server\"\nns = \"server\"\nready = \"tcp:6379\"\nstop_at_end = true\n\
                  cmd = \"redis-server --port 6379 --bind 10.0.0.1 --save '' --protected-mode no --dir /tmp\"\n";
    let programs = server.to_owned()
        + &client("bench", "server", "redis-benchmark -h 10.0.0.1 -n 5000 -c 20 -t set,get -P 4 -q");
    let Some(e) = hosts("redis_and_its_benchmark", &["redis-server", "redis-benchmark"], &programs) else {
        return;
    };
    assert!(e.out.contains("SET:") && e.out.contains("GET:"), "{}", e.out);
}

#[test]
fn ping_and_our_own_tools() {
    let serve = "[[program]]\nname = \"serve\"\nns = \"server\"\nready = \"tcp:80\"\nstop_at_end = true\ncmd = \"ferronet tool serve --port 80\"\n";
    let programs = serve.to_owned()
        + &client("ping", "serve", "ping -c 3 -i 0.2 10.0.0.1; ping -c 2 -i 0.2 fd00::1")
        + "[[program]]\nname = \"echo\"\nns = \"client\"\nafter = \"ping\"\ncmd = \"ferronet tool ping 10.0.0.1 -c 2 -i 0.1\"\n\
           [[program]]\nname = \"fetch\"\nns = \"client\"\nafter = \"ping\"\ncmd = \"ferronet tool fetch http://[fd00::1]/8MiB --sha256\"\n";
    let Some(e) = hosts("ping_and_our_own_tools", &["ping"], &programs) else { return };
    assert_eq!(e.out.matches(" 0% packet loss").count(), 2, "{}", e.out);
    assert!(e.out.contains("2 sent, 2 received"), "{}", e.out);
    assert!(e.out.contains("200 OK: 8388608 bytes"), "{}", e.out);
    assert!(e.out.contains("client -> server"), "{}", e.out);
}
