//! The faults.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::{Duration, Instant};

use mlx_tests::TestServer;
use tokio::task::JoinSet;

use crate::node::Node;

/// Lets faults loose on all nodes, one after another and some at the same time, and in the end heals them all; how many
/// there were of each kind. Bytes are garbled only of the node `garbled`.
pub(crate) async fn storm(
    server: &TestServer,
    nodes: &[Node],
    garbled: usize,
    storm: Duration,
    seed: u64,
) -> BTreeMap<&'static str, u32> {
    let mut random = fastrand::Rng::with_seed(seed);
    let (began, mut faults, mut passing) = (Instant::now(), BTreeMap::new(), JoinSet::new());
    while began.elapsed() < storm {
        tokio::time::sleep(Duration::from_millis(random.u64(20..250))).await; // the storm's own pace
        let node = nodes[random.usize(..nodes.len())].clone();
        let proxy = node.proxy;
        let kind = match random.u8(..100) {
            0..35 => {
                proxy.cut();
                "cut"
            }
            35..50 => {
                let length = Duration::from_millis(random.u64(10..150));
                passing.spawn(async move {
                    proxy.stall();
                    tokio::time::sleep(length).await; // the fault itself
                    proxy.resume();
                });
                "short stall"
            }
            50..60 => {
                let (length, cut) = (Duration::from_millis(random.u64(800..1500)), random.bool());
                passing.spawn(async move {
                    proxy.stall();
                    tokio::time::sleep(length).await; // the fault itself
                    if cut {
                        proxy.cut();
                    }
                    proxy.resume();
                });
                "half-open"
            }
            60..70 => {
                let (delay, length) = (Duration::from_millis(random.u64(1..15)), random.u64(100..1000));
                passing.spawn(async move {
                    proxy.delay(delay);
                    tokio::time::sleep(Duration::from_millis(length)).await; // the fault itself
                    proxy.delay(Duration::ZERO);
                });
                "delay"
            }
            70..78 => {
                let (rate, length) = (random.u64(20_000..500_000), random.u64(100..1000));
                passing.spawn(async move {
                    proxy.throttle(Some(rate));
                    tokio::time::sleep(Duration::from_millis(length)).await; // the fault itself
                    proxy.throttle(None);
                });
                "throttle"
            }
            78..85 => {
                let length = Duration::from_millis(random.u64(50..400));
                passing.spawn(async move {
                    proxy.refuse(true);
                    proxy.cut();
                    tokio::time::sleep(length).await; // the fault itself
                    proxy.refuse(false);
                });
                "refusal"
            }
            85..92 => {
                nodes[garbled].proxy.drop_byte();
                "lost byte"
            }
            92..96 => {
                signal("-STOP", server);
                tokio::time::sleep(Duration::from_millis(random.u64(20..900))).await; // the fault itself
                signal("-CONT", server);
                "frozen server"
            }
            _ => {
                signal("-KILL", server);
                "killed server"
            }
        };
        *faults.entry(kind).or_default() += 1;
    }
    passing.join_all().await;
    faults
}

/// To the server's process; one that is being restarted has none.
fn signal(name: &str, server: &TestServer) {
    if let Some(pid) = server.embedded().pid() {
        // A process may end between the look and the signal.
        let _ = Command::new("kill").args([name, &pid.to_string()]).status().unwrap();
    }
}
