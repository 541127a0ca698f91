//! The gateway before workers that are processes of their own.

use std::time::Duration;

use mlx_errors::Result;

use super::super::EXIT_DONE;
use super::cluster::Cluster;
use super::process::Starting;
use crate::gateway::{self, Listeners, Server};
use crate::plan::{ControllerPlan, Plan};
use crate::signals::Interrupts;
use crate::terminal::note;

/// How long answers under way may take to their end once the controller is told to end.
const GRACE: Duration = Duration::from_secs(5);

pub(super) async fn run(starting: &Starting<'_>) -> Result<u8> {
    let plan = Plan::new(starting.settings.config(), &starting.settings.around);
    let Some(controller) = plan.controller else {
        let reason = "`mode: worker` serves no gateway: `mlx-node run` runs a worker".to_owned();
        return Err(mlx_errors::ErrorKind::Internal { reason }.into());
    };
    // Before anything is started, since this is what is most likely to fail.
    let listeners = Listeners::bind(&controller.gateway).await?;
    gateway::install_metrics()?;
    let mut interrupts = Interrupts::catch();
    let cluster = Cluster::start(starting).await?;
    for (number, worker) in cluster.processes.iter().enumerate() {
        note(&format!("worker {} is process {}, id {}", number + 1, worker.pid, worker.id));
    }
    let served = serve(listeners, &controller, &cluster, &mut interrupts).await;
    note("stopping the workers and the server");
    let stopped = cluster.stop().await;
    served.and(stopped)?;
    Ok(EXIT_DONE)
}

async fn serve(
    listeners: Listeners,
    plan: &ControllerPlan,
    cluster: &Cluster,
    interrupts: &mut Interrupts,
) -> Result<()> {
    let address = listeners.address();
    let client = cluster.node.client();
    let dispatcher = client.dispatcher(plan.dispatch.clone()).await?;
    let known = plan.dispatch.known.clone();
    let server = Server::start(listeners, &plan.gateway, known, client, (cluster.registry.clone(), dispatcher));
    note(&format!("listening on http://{address}"));
    if gateway::is_open(address, &plan.gateway) {
        note("whoever reaches this address may use the cluster: there is no authentication here");
    }
    let result = tokio::select! {
        () = interrupts.next() => Ok(()),
        given_up = server.follow() => given_up.and_then(Err),
    };
    note("finishing the answers under way; interrupt again to end them");
    let patience = async {
        let _ = tokio::time::timeout(GRACE, interrupts.next()).await; // either will do
    };
    server.stop(patience).await;
    result
}
