//! The settings that a running server was started with.

use mlx_embedded::EmbeddedServer;

/// The text of its settings file, which its command line names.
pub(crate) fn settings_file(server: &EmbeddedServer) -> String {
    let pid = sysinfo::Pid::from_u32(server.pid().expect("it runs"));
    let mut system = sysinfo::System::new().expect("a process table");
    system.refresh_processes_specifics(
        sysinfo::ProcessesToUpdate::Some(&[pid]),
        true,
        sysinfo::ProcessRefreshKind::nothing().with_cmd(sysinfo::UpdateKind::Always),
    );
    let path = system.process(pid).expect("it runs").cmd().last().expect("a settings file").clone();
    std::fs::read_to_string(path).expect("readable by this user")
}
