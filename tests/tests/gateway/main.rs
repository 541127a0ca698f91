//! The gateway of `mlx-node`, as those see it who speak HTTP: curl, OpenAI's Python client, a browser.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]
#![allow(unreachable_pub, reason = "modules of a test, with one user")]

mod browser;
mod chromium;
mod curl;
mod curl_clients;
mod curl_deaths;
mod curl_hosts;
mod curl_whole;
#[cfg(target_os = "linux")]
mod hostile;
mod openai_client;
mod proxies;
mod support;
mod whole;
