//! The parent-death signal of Linux.
#![cfg(target_os = "linux")]

use rustix::io::Errno;
use rustix::process::{Signal, getpid, getppid, set_parent_process_death_signal};
use tokio::process::Command;

/// Has the kernel kill the command's process when the thread that spawns it ends.
///
/// Spawn it on a thread that lives as long as the process.
#[expect(unsafe_code, reason = "the signal must be asked for between fork and exec; there is no safe way in")]
pub(super) fn kill_with_parent(command: &mut Command) {
    let parent = getpid();
    let in_child = move || {
        set_parent_process_death_signal(Some(Signal::KILL))?;
        // A parent that died before the line above sends nothing any more. Compared with the parent's own number and
        // not with 1, which is a parent like any other in a container.
        if getppid() == Some(parent) { Ok(()) } else { Err(Errno::SRCH.into()) }
    };
    // SAFETY: between fork and exec only async-signal-safe calls are allowed, since another thread may have held any
    // lock at the moment of the fork. The closure makes two raw system calls, compares two integers, and builds an
    // error from an integer: it takes no lock, allocates nothing and does not panic.
    unsafe {
        command.pre_exec(in_child);
    }
}
