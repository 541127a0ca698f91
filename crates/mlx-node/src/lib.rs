//! The program `mlx-node`: a node of a cluster that answers with language models.
//!
//! A node is a bus (a nats-server, or the address of one), a controller (a gateway that speaks OpenAI's protocol over HTTP), and a
//! worker (which has an engine behind it: a model server, or a stand-in). Which of them it is says its configuration. All that a
//! program of your own would need is in the crates below: `mlx-nats` has workers and dispatch, `mlx-embedded` the server; here are
//! HTTP, engines and the command line.
//!
//! ```console
//! $ mlx-node run
//! $ mlx-node ask "Tell me about NATS"
//! ```

mod bus;
mod cli;
mod engine;
mod gateway;
mod members;
mod node;
mod plan;
mod signals;
mod terminal;
mod worker;

pub use cli::main;
