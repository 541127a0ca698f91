//! `cargo xtask test`: provides what the tests need, runs them in stages, and closes with a table and one line of counts.

mod arguments;
mod count;
mod coverage;
mod docker;
mod needs;
mod report;
mod runner;
mod session;
mod stage;

use std::ffi::{OsStr, OsString};
use std::io::Write as _;
use std::process::{Command, ExitCode};
use std::time::Instant;

use anyhow::{Result, bail, ensure};

use crate::process::Interrupted;
use crate::workspace::Workspace;
use crate::{nats, process, style};

pub(crate) use arguments::{TEST_HELP, TestArguments};
pub(crate) use stage::Stage;

use count::{Count, Counter};
use coverage::Coverage;
use docker::Docker;
use needs::Needs;
use report::{End, Row};
use runner::Runner;
use session::Session;
use stage::{SOAK, TestTargets};

pub(crate) fn run(workspace: &Workspace, arguments: &TestArguments) -> Result<ExitCode> {
    let plan = Plan::of(arguments);
    if arguments.list {
        list(&plan);
        return Ok(ExitCode::SUCCESS);
    }
    let server = match &arguments.server_version {
        Some(package) => nats::fetch(workspace, package)?,
        None => nats::provide(workspace)?,
    };
    anstream::eprintln!("nats-server {} at {}", server.version, server.path.display());
    let docker = Docker::find()?;
    match &docker {
        Docker::Answers { version, .. } => anstream::eprintln!("Docker {version} answers"),
        Docker::Missing(reason) if arguments.require_docker && !plan.has_stages() => {
            bail!("{reason} (--require-docker)")
        }
        Docker::Missing(reason) => anstream::eprintln!("{reason}"),
    }
    let needs = Needs::provide(workspace, docker.missing().is_none() && plan.may_need_clusters())?;

    let coverage = arguments.coverage.then(|| Coverage::begin(workspace)).transpose()?;
    let session = Session::begin(arguments, &server, &needs, &docker)?;
    let testing = Testing {
        workspace: coverage.as_ref().map_or(workspace, Coverage::workspace),
        arguments,
        docker: &docker,
        needs: &needs,
        session: &session,
        coverage: coverage.as_ref(),
    };
    let outcome = testing.run(&plan);
    let interrupted = outcome.as_ref().is_err_and(anyhow::Error::is::<Interrupted>);
    let tidy = session.end(interrupted);
    if interrupted && tidy && !arguments.keep {
        let _ = writeln!(anstream::stderr(), "interrupted: what was started is gone");
    }
    let rows = outcome?;
    let enough = coverage.map_or(Ok(true), |coverage| coverage.close())?;
    Ok(report::close(&rows, &needs, tidy && enough))
}

/// What a person asked for.
#[derive(Debug, PartialEq, Eq)]
enum Plan {
    Stages(Vec<Stage>),
    Soak,
    /// Something particular, in the words of the runner.
    Chosen,
}

impl Plan {
    fn of(arguments: &TestArguments) -> Self {
        if arguments.soak.is_some() {
            return Self::Soak;
        }
        if arguments.stage.is_empty() && !arguments.arguments.is_empty() {
            return Self::Chosen;
        }
        if arguments.coverage && arguments.stage.is_empty() {
            return Self::Stages(vec![Stage::Unit, Stage::Integration]);
        }
        Self::Stages(Stage::chosen(&arguments.stage))
    }

    fn has_stages(&self) -> bool {
        matches!(self, Self::Stages(_))
    }

    fn may_need_clusters(&self) -> bool {
        match self {
            Self::Stages(stages) => stages.contains(&Stage::Cluster),
            Self::Soak | Self::Chosen => true,
        }
    }
}

fn list(plan: &Plan) {
    if let Plan::Stages(stages) = plan {
        for stage in stages {
            anstream::println!("{:<12} {}", stage.name(), stage.purpose());
        }
    }
}

struct Testing<'a> {
    workspace: &'a Workspace,
    arguments: &'a TestArguments,
    docker: &'a Docker,
    needs: &'a Needs,
    session: &'a Session,
    coverage: Option<&'a Coverage>,
}

impl Testing<'_> {
    fn run(&self, plan: &Plan) -> Result<Vec<Row>> {
        let runner = Runner::find(self.workspace);
        ensure!(
            runner == Runner::Nextest || self.coverage.is_none(),
            "counting lines needs cargo-nextest: `cargo install --locked cargo-nextest`"
        );
        let targets = TestTargets::of(self.workspace)?;
        match plan {
            Plan::Stages(stages) => {
                let row = |(index, stage): (usize, &Stage)| {
                    heading(&format!("stage {} of {}: {}", index + 1, stages.len(), stage.name()));
                    timed(stage.name(), || self.stage(*stage, runner, &targets))
                };
                stages.iter().enumerate().map(row).collect()
            }
            Plan::Soak => {
                heading(&format!("soak for {} minutes", self.arguments.soak.unwrap_or_default()));
                Ok(vec![timed(SOAK, || self.soak(runner, &targets))?])
            }
            Plan::Chosen => Ok(vec![timed("chosen", || self.chosen(runner, &targets))?]),
        }
    }

    fn stage(&self, stage: Stage, runner: Runner, known: &TestTargets) -> Result<(Count, End)> {
        let targets = stage.targets(known)?;
        if stage == Stage::Doc {
            return self.watch(self.doc(&targets));
        }
        if stage == Stage::Integration {
            self.build_examples()?;
        }
        let mut selected = targets;
        if let Some(coverage) = self.coverage {
            selected.extend(["-E".to_owned(), coverage.filter()]);
        }
        let total = runner.count(self.workspace, &selected, self.session.environment())?;
        if let (true, Some(reason)) = (stage.needs_docker(), self.docker.missing()) {
            let count = Count { skipped: total, ..Count::default() };
            return Ok((
                count,
                match session::requires_docker(self.arguments) {
                    Some(by) => End::Broken(format!("{reason} ({by})")),
                    None => End::Skipped(reason.to_owned()),
                },
            ));
        }
        anstream::eprintln!("tests: {total}");
        let (mut command, counter) = runner.run(self.workspace);
        command.args(&selected);
        if runner == Runner::Nextest && !self.arguments.arguments.is_empty() {
            // What was asked for may be in another one of the stages.
            command.arg("--no-tests=pass");
        }
        command.args(with_names_left_out(self.arguments.arguments.clone(), self.needs));
        let (count, end) = self.watch((command, counter))?;
        // The runner leaves out of its counts what it filtered away with a whole binary.
        Ok((Count { skipped: total.saturating_sub(count.passed + count.failed), ..count }, end))
    }

    /// Some tests run an example as a program, which cargo does not build of itself where test targets are named.
    fn build_examples(&self) -> Result<()> {
        let mut command = self.workspace.cargo();
        command.args(["build", "--workspace", "--bins", "--examples"]);
        let status = process::run_with_lines(command, |_| {})?;
        ensure!(status.success(), "the programs and examples could not be built: see above");
        Ok(())
    }

    fn doc(&self, targets: &[String]) -> (Command, Counter) {
        let mut command = self.workspace.cargo();
        command.arg("test").args(targets).arg("--no-fail-fast").args(&self.arguments.arguments);
        (command, Counter::libtest())
    }

    fn soak(&self, runner: Runner, known: &TestTargets) -> Result<(Count, End)> {
        let (mut command, counter) = runner.run(self.workspace);
        command.args(known.only(SOAK)?);
        // Whoever waits for half an hour wants to see that it lives.
        match runner {
            Runner::Nextest => command.arg("--no-capture"),
            Runner::CargoTest => command.args(["--", "--nocapture"]),
        };
        self.watch((command, counter))
    }

    /// Without Docker, what needs it is left out, unless it is named, or has to run.
    fn chosen(&self, runner: Runner, known: &TestTargets) -> Result<(Count, End)> {
        let leave_out = self.docker.missing().is_some() && session::requires_docker(self.arguments).is_none();
        let mut words = self.arguments.arguments.clone();
        if runner == Runner::CargoTest && !runner::names_targets(&words) {
            // What nextest runs, unit tests included: everything but the examples in the documentation.
            words.insert(0, "--tests".into());
        }
        if runner::may_lack_examples(&words) {
            self.build_examples()?;
        }
        let mut left_out = if leave_out { known.of_docker() } else { Vec::new() };
        left_out.retain(|target| !runner::names_target(&words, target));
        if runner == Runner::Nextest && !left_out.is_empty() {
            words = runner::filtered(&words, &stage::filter_without(&left_out));
        }
        let (mut command, counter) = runner.run(self.workspace);
        command.args(with_names_left_out(words, self.needs));
        self.watch((command, counter))
    }

    fn watch(&self, (mut command, mut counter): (Command, Counter)) -> Result<(Count, End)> {
        command.envs(self.session.environment().iter().map(|(name, value)| (name, value)));
        let status = process::run_with_lines(command, |line| {
            if counter.read(line) {
                // Not even a terminal that is gone may keep us from ending the tests.
                let _ = writeln!(anstream::stdout(), "{line}");
            }
        })?;
        Ok((counter.count(), if status.success() { End::Passed } else { End::Failed }))
    }
}

/// A row of the table. What keeps one stage from starting does not keep the others.
fn timed(stage: &'static str, work: impl FnOnce() -> Result<(Count, End)>) -> Result<Row> {
    let started = Instant::now();
    let (count, end) = match work() {
        Ok(done) => done,
        Err(error) if error.is::<Interrupted>() => return Err(error),
        Err(error) => (Count::default(), End::Broken(format!("{error:#}"))),
    };
    Ok(Row { stage, count, seconds: started.elapsed().as_secs_f64(), end })
}

/// What a person asked for, without the tests that cannot run here: both runners know them by words in their names.
fn with_names_left_out(mut words: Vec<OsString>, needs: &Needs) -> Vec<OsString> {
    let filters = needs.filters();
    if !filters.is_empty() && !words.iter().any(|word| word == OsStr::new("--")) {
        words.push("--".into());
    }
    words.extend(filters.into_iter().map(Into::into));
    words
}

fn heading(text: &str) {
    anstream::eprintln!("\n{}{text}{}", style::HEADING.render(), style::HEADING.render_reset());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_person_asks_for_is_all_that_runs() {
        let arguments = |words: &[&str]| words.iter().map(OsString::from).collect();
        let everything = TestArguments::default();
        assert_eq!(Plan::of(&everything), Plan::Stages(Stage::chosen(&[])));
        let chosen = TestArguments { arguments: arguments(&["-p", "mlx-log"]), ..TestArguments::default() };
        assert_eq!(Plan::of(&chosen), Plan::Chosen);
        let stage = TestArguments { stage: vec![Stage::Unit], ..chosen };
        assert_eq!(Plan::of(&stage), Plan::Stages(vec![Stage::Unit]));
        let soak = TestArguments { soak: Some(1), ..TestArguments::default() };
        assert_eq!(Plan::of(&soak), Plan::Soak);
    }

    #[test]
    fn tests_that_cannot_run_here_are_left_out_by_either_runner() {
        let left_out = |words: &[&str]| {
            let words = with_names_left_out(words.iter().map(OsString::from).collect(), &Needs::without("nats_py"));
            words.into_iter().map(|word| word.into_string().unwrap()).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(left_out(&[]), "-- --skip nats_py");
        assert_eq!(left_out(&["-p", "x", "--", "c1"]), "-p x -- c1 --skip nats_py");
        assert_eq!(with_names_left_out(Vec::new(), &Needs::default()), Vec::<OsString>::new());
    }
}
