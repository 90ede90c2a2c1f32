//! `herold`: an end-to-end-encrypted Matrix client for the terminal, and with `herold rpc` the peer
//! that conformance runners drive.
//!
//! Invariants:
//!
//! - No secret in the arguments, in the log, in errors or on standard output, but for the recovery key that
//!   was just made and the QR code of a verification.
//! - What others have written reaches a terminal only after [`output::clean`].
//! - Standard output holds the answer and nothing else; all the rest goes to standard error.

#![forbid(unsafe_code)]

mod args;
mod commands;
mod failure;
mod logging;
mod output;
mod progress;
mod rpc;
mod secrets;

use std::process::ExitCode;

use clap::Parser;

use crate::{
    args::{Args, Command},
    failure::Failure,
};

fn main() -> ExitCode {
    let args = Args::parse();
    logging::start();
    let outcome = runtime().and_then(|runtime| {
        let outcome = runtime.block_on(async {
            match args.command {
                Command::Rpc => rpc::run().await,
                command => commands::run(args.global, command).await,
            }
        });
        // Not a drop: that would wait for a thread that reads a terminal.
        runtime.shutdown_background();
        outcome
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if !failure.is_silent() {
                eprintln!("herold: {failure}");
            }
            failure.exit_code()
        }
    }
}

fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| Failure::other(format!("the runtime: {error}")))
}
