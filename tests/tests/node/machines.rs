//! Two machines: network namespaces with a cable between them, made by a test that runs in one of its own.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use mlx_tests::{eventually, eventually_async, own_namespaces};

use crate::support::{Home, RunningNode, Streams, chat, curl, nobody_is_left};

const FIRST: &str = "10.9.0.1";
const SECOND: &str = "10.9.0.2";

/// Another machine, which ends with this.
struct Machine(Child);

impl Machine {
    /// One at the other end of a cable to this one.
    fn beside() -> Self {
        let child = Command::new("unshare").args(["--net", "sleep", "infinity"]).stdin(Stdio::null()).spawn().unwrap();
        let machine = Self(child);
        let pid = machine.0.id().to_string();
        let own = std::fs::read_link("/proc/self/ns/net").unwrap();
        let theirs = || std::fs::read_link(format!("/proc/{pid}/ns/net"));
        // Until it has left this one's network.
        while theirs().map_or(true, |theirs| theirs == own) {
            std::thread::yield_now();
        }
        sh("ip link set lo up");
        sh(&format!("ip link add first type veth peer name second netns {pid}"));
        sh(&format!("ip addr add {FIRST}/24 dev first && ip link set first up"));
        let there = format!("ip link set lo up && ip addr add {SECOND}/24 dev second && ip link set second up");
        let done = machine.command("sh").args(["-c", &there]).status().unwrap();
        assert!(done.success(), "{there}");
        machine
    }

    /// A program there.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/proc/{}/ns/net", self.0.id())).arg(program);
        command
    }

    /// `mlx-node run` there, in a folder.
    fn run(&self, home: &Home, arguments: &[&str]) -> RunningNode {
        let node = home.command(&[]);
        let mut command = self.command(node.get_program().to_str().unwrap());
        command
            .arg("run")
            .args(arguments)
            .current_dir(home.path())
            .env("HOME", home.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        RunningNode::spawn(&mut command)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn sh(line: &str) {
    assert!(Command::new("sh").args(["-c", line]).status().unwrap().success(), "{line}");
}

const DISCOVERY: &str = "{ heartbeatIntervalMs: 200, offlineTimeoutMs: 2000 }";

#[tokio::test]
async fn p1_a_worker_in_another_namespace_finds_the_bus_by_the_address_of_its_controller() {
    let name = "machines::p1_a_worker_in_another_namespace_finds_the_bus_by_the_address_of_its_controller";
    if !own_namespaces(name, &["--net"]) {
        return;
    }
    let second = Machine::beside();
    let bus = "user: cluster, password: secret, reconnectTimeWait: 1";
    // The worker comes first, and its bus not for a while.
    let worker_home = Home::with(&format!(
        "mode: worker\nnats: {{ {bus}, embedded: {{ port: 4222 }} }}\n\
         discovery: {{ controllerIp: {FIRST}, heartbeatIntervalMs: 200, offlineTimeoutMs: 2000 }}\nworker: {{ maxConcurrent: 20 }}\n"
    ));
    let worker = second.run(&worker_home, &["--tokens-per-second", "20"]);
    assert!(worker.says("waiting for the bus: ").await.contains(&format!("{FIRST}:4222")), "{}", worker.said());

    let first_home = Home::with(&format!(
        "mode: controller\nnats: {{ {bus}, embedded: {{ host: 0.0.0.0, port: 4222, httpPort: 0 }} }}\n\
         controller: {{ bindAddress: 127.0.0.1, port: 8000, dashboardPort: 8000 }}\ndiscovery: {DISCOVERY}\n"
    ));
    let controller = first_home.run(&[]);
    let gateway = controller.gateway().await;
    worker.says(" is ready").await;
    let url = format!("http://{gateway}/v1/chat/completions");
    let answered = async || (curl(&["--json", &chat(false), &url]).await.0 == 200).then_some(());
    eventually_async("an answer from the other machine", answered).await;

    // The controller restarts under load: its streams finish, and the next one has the worker again.
    let streams = Streams::start(&gateway, 10).await;
    controller.signal("-TERM");
    let (whole, broken) = streams.ended().await;
    assert_eq!((whole, broken), (10, Vec::<String>::new()));
    let mut controller = controller;
    assert_eq!(controller.ended().await, Some(0));

    // The bus is away for more attempts than a client makes unless told otherwise (10).
    eventually("twelve attempts", || worker.logged().contains("\"attempt\":12")).await;
    let controller = first_home.run(&[]);
    controller.gateway().await;
    eventually_async("an answer after the outage", answered).await;

    // The cable is pulled: nothing is said by anyone, and both notice; then it is plugged in again.
    let streams = Streams::start(&gateway, 3).await;
    sh("ip link set first down");
    let (whole, broken) = streams.ended().await;
    assert_eq!(whole, 0, "a worker that cannot be reached has not answered");
    assert!(broken.iter().all(|text| text.contains("\"error\"")), "each client is told: {broken:?}");
    sh("ip link set first up");
    let began = std::time::Instant::now();
    eventually_async("an answer after the cable is back", answered).await;
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());

    // The worker is told to end under ten streams: they finish, and the next request is told that nobody is left.
    let streams = Streams::start(&gateway, 10).await;
    worker.signal("-TERM");
    let (whole, broken) = streams.ended().await;
    assert_eq!((whole, broken), (10, Vec::<String>::new()));
    let mut worker = worker;
    assert_eq!(worker.ended().await, Some(0));
    nobody_is_left(&gateway).await;
    assert_eq!(controller.end("-TERM").await, Some(0));
}
