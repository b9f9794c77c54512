//! Processes that the tool starts, and that must not outlive it, however it ends.

use std::{
    io,
    os::unix::process::CommandExt as _,
    process::{Child, Command},
};

use nix::{
    errno::Errno,
    sys::{prctl::set_pdeathsig, signal::Signal},
    unistd::{getpid, getppid},
};

/// Starts a process that the kernel ends with the thread that calls this: the main one, which lives as long as the tool.
pub(crate) fn spawn(command: &mut Command) -> io::Result<Child> {
    let parent = getpid();
    let bind = move || {
        set_pdeathsig(Signal::SIGKILL)?;
        // It may have ended before that.
        if getppid() == parent { Ok(()) } else { Err(Errno::ESRCH.into()) }
    };
    #[expect(unsafe_code, reason = "what runs between fork and exec")]
    // SAFETY: two system calls, which allocate nothing and take no lock.
    unsafe {
        command.pre_exec(bind);
    }
    command.spawn()
}
