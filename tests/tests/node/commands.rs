//! The commands, in an empty folder and with files.

use std::net::TcpListener;

use crate::support::{Home, curl, free_port, json_of, text};

#[tokio::test]
async fn p1_a_node_runs_in_an_empty_folder_and_answers() {
    let home = Home::empty();
    let ports = [("MLX_NATS__EMBEDDED__PORT", free_port()), ("MLX_CONTROLLER__PORT", free_port())];
    let others = [("MLX_CONTROLLER__DASHBOARD_PORT", free_port())];
    let with_ports = |arguments: &[&str]| {
        let mut command = home.command(arguments);
        for (name, port) in ports.iter().chain(&others) {
            command.env(name, port.to_string());
        }
        command.env("MLX_NATS__EMBEDDED__HTTP_PORT", "0");
        command
    };
    let node = crate::support::RunningNode::spawn(&mut with_ports(&["run"]));
    node.says(" is ready").await;

    let asked = with_ports(&["ask", "one", "two", "--stats"]).output().unwrap();
    let (answer, figures) = (text(&asked.stdout), text(&asked.stderr));
    assert_eq!(asked.status.code(), Some(0), "{figures}");
    assert!(answer.starts_with("You said: one two") && answer.ends_with("reads: two one\n"), "{answer}");
    assert!(figures.contains("stand-in by") && figures.contains(" tokens, the first after "), "{figures}");

    let shown = with_ports(&["status"]).output().unwrap();
    let shown = text(&shown.stdout);
    assert!(
        shown.contains("bus connected, 1 workers") && shown.contains("online") && shown.contains("stand-in"),
        "{shown}"
    );
    let shown = with_ports(&["status", "--json"]).output().unwrap();
    let shown = json_of(&text(&shown.stdout));
    assert_eq!((&shown["workers"][0]["status"], &shown["workers"][0]["maxConcurrent"]), (&"online".into(), &4.into()));

    let (status, models) = curl(&[&format!("http://{}/v1/models", node.gateway().await)]).await;
    assert!(status == 200 && models.contains("stand-in"), "{models}");
    // The same id at the next start: it is kept in the folder of the user.
    let id = node.says("worker ").await;
    assert_eq!(node.end("-TERM").await, Some(0));
    let node = crate::support::RunningNode::spawn(&mut with_ports(&["run"]));
    assert_eq!(node.says("worker ").await, id);
}

#[test]
fn p1_a_command_without_a_node_says_what_to_start() {
    let home = Home::with(&format!("nats: {{ embedded: {{ port: {} }} }}\n", free_port()));
    for command in [&["ask", "hi"][..], &["status"]] {
        let output = home.output(command);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("is `mlx-node run` running") && said.contains("NATS_CONNECTION_ERROR"), "{said}");
    }
}

#[test]
fn p3_check_shows_what_is_in_force_what_is_wrong_and_what_has_no_effect() {
    let home = Home::with("mode: worker\ncontroller: { port: 9000 }\nnats: { token: \"canary\" }\n");
    for arguments in [&["check"][..], &["check", "cluster.yaml"]] {
        let output = home.output(arguments);
        let (values, said) = (text(&output.stdout), text(&output.stderr));
        assert_eq!(output.status.code(), Some(0), "{said}");
        assert!(values.contains("controller.port") && values.contains("# cluster.yaml:2:21"), "{values}");
        assert!(said.contains("warning: `controller` belongs to a controller"), "{said}");
        assert!(!values.contains("canary") && !said.contains("canary"), "{values}{said}");
    }
    std::fs::write(home.path().join("wrong.yaml"), "nats:\n  embedded:\n    prot: 1\n").unwrap();
    let output = home.output(&["check", "wrong.yaml"]);
    let said = text(&output.stderr);
    assert!(output.status.code() == Some(1) && said.contains("wrong.yaml:3:5") && said.contains("port"), "{said}");
    assert_eq!(home.output(&["check", "none.yaml"]).status.code(), Some(3));
    assert_eq!(home.output(&["check", "--no-such-option"]).status.code(), Some(2));
}

#[test]
fn p1_help_teaches_and_shells_can_complete() {
    let home = Home::empty();
    let help = text(&home.output(&["--help"]).stdout);
    assert!(help.contains("First steps") && help.contains("mlx-node ask") && help.contains("OPENAI_API_KEY"), "{help}");
    for command in ["run", "ask", "status", "check", "demo"] {
        let help = text(&home.output(&[command, "--help"]).stdout);
        assert!(help.contains("Exit codes:"), "{command}: {help}");
    }
    for shell in ["bash", "zsh", "fish"] {
        assert!(text(&home.output(&["completions", shell]).stdout).contains("mlx-node"), "{shell}");
    }
    assert!(text(&home.output(&["--version"]).stdout).starts_with("mlx-node "));
}

#[test]
fn p1_a_taken_port_is_an_error_of_its_own_that_names_the_key() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let home = Home::with(&format!("controller: {{ enabled: true, bindAddress: 127.0.0.1, port: {port} }}\n"));
    let output = home.output(&["run"]);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("LISTEN_ERROR") && said.contains("`controller.port` says where"), "{said}");
    assert!(!text(&output.stdout).contains("nats-server"), "nothing was started");
}
