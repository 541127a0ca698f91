//! What a process with an idle client weighs, beside one that has only a runtime.

use std::time::Duration;

use anyhow::Result;

use crate::arm::Side;
use crate::context::Context;
use crate::meter::resident;
use crate::sample::{Metric, Sample};

/// After which nothing goes on that belongs to the connecting.
const SETTLING: Duration = Duration::from_millis(300);

pub(super) async fn drive(context: &Context) -> Result<Sample> {
    let memory = match context.arm.side {
        Side::Ours | Side::OursPlain => {
            let _client = context.ours().await?;
            idle().await?
        }
        Side::Raw => {
            let _client = context.raw().await?;
            idle().await?
        }
        Side::Bare => idle().await?,
    };
    Ok(Sample::of(Metric::Memory, memory))
}

async fn idle() -> Result<f64> {
    tokio::time::sleep(SETTLING).await; // what is measured is a process that does nothing
    resident()
}
