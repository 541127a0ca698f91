//! A small cluster at work for as long as `MLX_TEST_SOAK_MINUTES` says, while its network, its server and its workers
//! fail at random. Without the variable it runs for seconds, so that it stays a test that works.
//!
//! `MLX_TEST_SEED` repeats the faults of a run. See a long one with `--no-capture`: a line every ten seconds, the figures
//! at the end.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]
#![allow(clippy::cast_precision_loss, reason = "figures for people, far below 2^52")]
#![allow(unreachable_pub, reason = "`pub` marks what the files of this test share")]

mod chaos;
mod cluster;
mod figures;
mod load;
mod memory;
mod sequence;

use std::sync::Arc;
use std::time::{Duration, Instant};

use mlx_tests::{LIMIT, number_from_env, within};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};

use cluster::Cluster;
use figures::Figures;
use memory::Memory;

/// Between two lines of progress, and two looks at the memory.
const PROGRESS: Duration = Duration::from_secs(10);

/// How long the cluster may take to calm down, beyond the length asked for.
const CALM: Duration = Duration::from_mins(3);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s1_c10_m6_a_cluster_in_chaos_loses_nothing_silently_and_keeps_its_memory() {
    let minutes = number_from_env("MLX_TEST_SOAK_MINUTES", || 8.0 / 60.0);
    let seed = number_from_env("MLX_TEST_SEED", || fastrand::u64(..));
    println!("MLX_TEST_SOAK_MINUTES={minutes} MLX_TEST_SEED={seed}");
    let length = Duration::from_secs_f64(minutes * 60.0);
    timeout(length + CALM, Box::pin(soak(length, fastrand::Rng::with_seed(seed)))).await.expect("the cluster hangs");
}

async fn soak(length: Duration, mut random: fastrand::Rng) {
    let figures = Arc::new(Figures::default());
    let cluster = Arc::new(Cluster::start(Arc::clone(&figures)).await);
    let memory = Memory::new(length);
    let calm = cluster.measure().await;
    println!("calm: {calm:?}");

    let (stop, over) = watch::channel(false);
    let mut tasks = JoinSet::new();
    tasks.spawn(cluster::watch_events(Arc::clone(&cluster), over.clone()));
    tasks.spawn(sequence::check(Arc::clone(&cluster), over.clone()));
    load::start(&mut tasks, &cluster, &over, &mut random);
    chaos::start(&mut tasks, &cluster, &over, &mut random);
    let memory = watch_over(&mut tasks, &cluster, memory, length).await;

    stop.send_replace(true);
    // Each ends by itself after what it is at; one that cannot is what this test looks for.
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap();
    }
    cluster.works_again().await;
    cluster.returns_to(&calm).await;
    println!("{figures}\n{}", memory.report());
    figures.check();
    memory.check();
    let cluster = Arc::into_inner(cluster).expect("every task has ended");
    within("the end of the cluster", cluster.stop()).await;
}

/// Says how far it is, and looks at the memory, until the time is over or something has failed.
async fn watch_over(tasks: &mut JoinSet<()>, cluster: &Cluster, mut memory: Memory, length: Duration) -> Memory {
    let began = Instant::now();
    let mut ticks = interval(PROGRESS.min(length / 8));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while began.elapsed() < length {
        tokio::select! {
            _ = ticks.tick() => {
                let sample = memory.sample(cluster.server_pid());
                if length > LIMIT {
                    println!("{:>5} s  {sample}  {}", began.elapsed().as_secs(), cluster.figures().brief());
                }
            }
            ended = tasks.join_next() => {
                println!("{}", cluster.figures().journal());
                panic!("a task ended before its time: {ended:?}");
            }
        }
    }
    memory
}
