//! What goes wrong, at random: the network, the server, the workers; each at its own pace, so that faults overlap.

use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use mlx_types::WorkerId;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::cluster::Cluster;

/// Starts all of it. Each kind ends with `over`, and leaves everything whole.
pub fn start(tasks: &mut JoinSet<()>, cluster: &Arc<Cluster>, over: &watch::Receiver<bool>, random: &mut Rng) {
    tasks.spawn(break_networks(Arc::clone(cluster), over.clone(), random.fork()));
    tasks.spawn(kill_servers(Arc::clone(cluster), over.clone(), random.fork()));
    tasks.spawn(change_workers(Arc::clone(cluster), over.clone(), random.fork()));
}

/// Cuts a connection, or stalls it, every few seconds.
async fn break_networks(cluster: Arc<Cluster>, mut over: watch::Receiver<bool>, mut random: Rng) {
    // Even the shortest run has a cut in it.
    let (mut wait, mut first) = (500..2_000, true);
    while !pause(&mut over, random.u64(wait)).await {
        let network = random.usize(..cluster.networks().len());
        let proxy = &cluster.networks()[network];
        if first || random.u8(..3) > 0 {
            cluster.figures().note(format_args!("network {network} is cut"));
            proxy.cut();
            cluster.figures().count("cuts");
        } else {
            cluster.figures().note(format_args!("network {network} stalls"));
            proxy.stall();
            cluster.figures().count("stalls");
            pause(&mut over, random.u64(100..3_000)).await;
            cluster.disturbed(network);
            proxy.resume();
            cluster.figures().note(format_args!("network {network} resumes"));
        }
        (wait, first) = (500..6_000, false);
    }
}

/// Kills the server about once a minute: twice within its minute it may happen, five times not, which is its budget.
async fn kill_servers(cluster: Arc<Cluster>, mut over: watch::Receiver<bool>, mut random: Rng) {
    let mut wait = 3_000..5_000;
    while !pause(&mut over, random.u64(wait)).await {
        cluster.kill_server().await;
        cluster.figures().count("kills");
        wait = 20_000..100_000;
    }
}

/// Lets a worker leave or die, and another one take its place, or the same one come back.
async fn change_workers(cluster: Arc<Cluster>, mut over: watch::Receiver<bool>, mut random: Rng) {
    // And a departure.
    let (mut wait, mut first) = (500..2_000, true);
    while !pause(&mut over, random.u64(wait)).await {
        let place = random.usize(..cluster.places());
        let mut slot = cluster.slot(place).await;
        if first || random.bool() {
            cluster.leave(&mut slot).await;
            cluster.figures().count("departures");
        } else {
            cluster.die(&mut slot);
            cluster.figures().count("deaths");
        }
        (wait, first) = (1_000..8_000, false);
        pause(&mut over, random.u64(0..3_000)).await;
        if random.bool() {
            slot.id = WorkerId::new();
        }
        cluster.join(place, &mut slot).await;
    }
}

/// Waits, at the pace of the chaos, and says whether it is over.
pub async fn pause(over: &mut watch::Receiver<bool>, millis: u64) -> bool {
    let over = over.wait_for(|over| *over);
    tokio::time::timeout(Duration::from_millis(millis), over).await.is_ok()
}
