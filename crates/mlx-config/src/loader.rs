//! The loader: from sources to a configuration that holds.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use mlx_errors::{Error, ErrorKind, Result, Violation, Violations};
use mlx_types::ClusterConfig;
use serde::Deserialize;
use serde_json::Value;

use crate::budget::Budget;
use crate::draw::draw;
use crate::env::{Environment, insert};
use crate::explain;
use crate::field::{Kind, ROOT};
use crate::findings::Findings;
use crate::interpolate;
use crate::path::{Step, dotted, steps};
use crate::redact;
use crate::reference;
use crate::source::{self, Origin, Sources};
use crate::tree::{Data, Entry, Node, Position};
use crate::yaml;

/// Loads a configuration from several sources.
///
/// Later sources win over earlier ones, the environment over all files and texts, overrides over everything.
/// Sections are merged key by key; a list replaces the list before it.
///
/// ```
/// use mlx_config::{Loader, Origin};
///
/// let loaded = Loader::new()
///     .text("base.yaml", "nats:\n  embedded:\n    port: ${PORT}\n")
///     .env_map([("PORT", "5222"), ("MLX_NATS__EMBEDDED__MONITORING", "false")])
///     .set("nats.embedded.logLevel", "debug")
///     .load()?;
/// assert_eq!(loaded.config().nats.embedded.port, 5222);
/// assert_eq!(loaded.origin("nats.embedded.monitoring").to_string(), "$MLX_NATS__EMBEDDED__MONITORING");
/// assert_eq!(loaded.origin("nats.embedded.host"), Origin::Default);
/// # Ok::<(), mlx_errors::Error>(())
/// ```
#[derive(Clone, Default)]
pub struct Loader {
    layers: Vec<Layer>,
    /// The process's own where unset.
    environment: Option<Environment>,
    overrides: Vec<(String, Value)>,
}

#[derive(Clone)]
enum Layer {
    File(PathBuf),
    Text { name: PathBuf, yaml: String },
}

impl Loader {
    /// A loader without files, with the environment of this process.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a file.
    #[must_use]
    pub fn file(mut self, path: impl AsRef<Path>) -> Self {
        self.layers.push(Layer::File(path.as_ref().to_owned()));
        self
    }

    /// Adds a text; `name` stands for the file name in reports.
    #[must_use]
    pub fn text(mut self, name: impl AsRef<Path>, yaml: impl Into<String>) -> Self {
        self.layers.push(Layer::Text { name: name.as_ref().to_owned(), yaml: yaml.into() });
        self
    }

    /// Takes these variables for the environment, instead of the process's own.
    #[must_use]
    pub fn env_map<K, V>(mut self, variables: impl IntoIterator<Item = (K, V)>) -> Self
    where
        K: Into<OsString>,
        V: Into<OsString>,
    {
        self.environment = Some(Environment::new(variables.into_iter().map(|(key, value)| (key.into(), value.into()))));
        self
    }

    /// Takes an empty environment: no variable sets a key, and every `${VAR}` is unset.
    #[must_use]
    pub fn without_env(mut self) -> Self {
        self.environment = Some(Environment::default());
        self
    }

    /// Overrides one key, for example `nats.embedded.port`. A text takes the type that the key wants.
    #[must_use]
    pub fn set(mut self, path: impl Into<String>, value: impl Into<Value>) -> Self {
        self.overrides.push((path.into(), value.into()));
        self
    }

    /// Reads, merges and checks.
    ///
    /// # Errors
    /// As [`load`](crate::load).
    pub fn load(&self) -> Result<Loaded> {
        let process;
        let environment = if let Some(environment) = &self.environment {
            environment
        } else {
            process = Environment::new(std::env::vars_os());
            &process
        };
        let mut sources = Sources::default();
        let mut budget = Budget::default();
        let mut findings = Findings::default();
        let mut tree = Node::new(Data::Map(Vec::new()), Position { source: usize::MAX, ..Position::default() });
        for layer in self.read(&mut sources, environment, &mut budget, &mut findings)? {
            tree.merge(layer);
        }
        tree.merge(environment.layer(&ROOT, &mut sources, &mut budget, &mut findings));
        for (path, value) in &self.overrides {
            let place = Position { source: sources.add_override(), ..Position::default() };
            match steps(path) {
                Some(steps) => insert(&mut tree, &steps, from_value(value, place)),
                None => findings.push(place, Violation::new(path, "path", "not a path of keys, as in `nats.mode`")),
            }
        }
        let sound = explain::take_types(&mut tree, Some(&ROOT));
        if sound
            && findings.is_empty()
            && let Ok(config) = ClusterConfig::deserialize(tree.to_value(Some(&ROOT)))
            && config.check().is_ok()
        {
            let warnings = warnings(environment, &tree, &sources);
            return Ok(Loaded { config, tree, sources, warnings });
        }
        let violations = explain::explain(tree, findings, &sources);
        Err(Error::new(ErrorKind::ConfigValidation { violations }))
    }

    /// An error of [`load`](Self::load) for a terminal: every violation with its line of the file, the place marked.
    ///
    /// Lines that may hold a secret are left out.
    pub fn draw(&self, error: &Error, colour: bool) -> String {
        let (ErrorKind::ConfigSyntax { violations } | ErrorKind::ConfigValidation { violations }) = error.kind() else {
            return format!("{:#}\n", mlx_errors::report(error));
        };
        let read = |file: &Path| {
            let text = self.layers.iter().find_map(|layer| match layer {
                Layer::Text { name, yaml } if name == file => Some(yaml.clone()),
                Layer::File(path) if path == file => source::read(path).ok(),
                _ => None,
            });
            text.map(|text| redact::without_secrets(&text))
        };
        // Read once, however many violations a file has.
        let texts: RefCell<HashMap<PathBuf, Option<String>>> = RefCell::default();
        let source = |file: &Path| texts.borrow_mut().entry(file.to_owned()).or_insert_with(|| read(file)).clone();
        draw(violations, source, colour)
    }

    /// Reads every file and text into a layer of its own.
    fn read(
        &self,
        sources: &mut Sources,
        environment: &Environment,
        budget: &mut Budget,
        findings: &mut Findings,
    ) -> Result<Vec<Node>> {
        let mut layers = Vec::new();
        let mut malformed = Violations::default();
        for layer in &self.layers {
            let (name, text) = match layer {
                Layer::File(path) => (path, source::read(path)?),
                Layer::Text { name, yaml } => (name, source::text(yaml.clone().into_bytes(), name)?),
            };
            let source = sources.add_text(name.clone());
            match yaml::parse(&text, source, sources, budget, findings) {
                Ok(mut node) => {
                    interpolate::resolve(&mut node, environment, sources, budget, findings);
                    match node.data {
                        Data::Map(_) => layers.push(node),
                        _ => findings.push(node.place, explain::not_a_section(&node, sources)),
                    }
                }
                Err(violation) => malformed.push(*violation),
            }
        }
        if malformed.is_empty() {
            Ok(layers)
        } else {
            Err(Error::new(ErrorKind::ConfigSyntax { violations: malformed }))
        }
    }
}

impl std::fmt::Debug for Loader {
    /// Names alone: texts, variables and overrides may hold secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let layers = self.layers.iter().map(|layer| match layer {
            Layer::File(name) | Layer::Text { name, .. } => name,
        });
        f.debug_struct("Loader")
            .field("layers", &layers.collect::<Vec<_>>())
            .field("overrides", &self.overrides.iter().map(|(path, _)| path).collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}

/// A configuration, and where each of its values comes from.
pub struct Loaded {
    config: ClusterConfig,
    tree: Node,
    sources: Sources,
    warnings: Violations,
}

impl Loaded {
    /// The configuration.
    pub fn config(&self) -> &ClusterConfig {
        &self.config
    }

    /// The configuration by value; the origins are dropped.
    pub fn into_config(self) -> ClusterConfig {
        self.config
    }

    /// What is no error and was hardly meant: a variable whose name is nearly that of one that sets a key, a secret that ends in
    /// a line break. For a program to log when it starts.
    pub fn warnings(&self) -> &Violations {
        &self.warnings
    }

    /// Where the value of a key comes from, for example of `nats.embedded.port` or `workers.static[0].url`.
    ///
    /// For a section or a list: where the last source that touched it began it. A key that does not exist is at its
    /// default, as one that nobody set.
    pub fn origin(&self, path: &str) -> Origin {
        let node = steps(path).and_then(|steps| self.tree.at(&steps).map(|node| node.place));
        node.map_or(Origin::Default, |place| self.sources.origin(place))
    }

    /// Every key with its value and origin, in the order of the reference. Secrets are redacted.
    pub fn values(&self) -> Vec<(String, Value, Origin)> {
        let effective = serde_json::to_value(&self.config).unwrap_or_default();
        let keys = reference::keys().into_iter().filter(|key| !matches!(key.field.kind, Kind::Section(_)));
        keys.map(|key| {
            let path = dotted(&key.path);
            let value = key.path.iter().try_fold(&effective, |value, step| match step {
                Step::Key(key) => value.get(key),
                Step::Index(index) => value.get(index),
            });
            let origin = self.origin(&path);
            (path, value.cloned().unwrap_or_default(), origin)
        })
        .collect()
    }
}

impl std::fmt::Debug for Loaded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Loaded").field("config", &self.config).finish_non_exhaustive()
    }
}

/// What is no error and was hardly meant.
fn warnings(environment: &Environment, tree: &Node, sources: &Sources) -> Violations {
    let mut warnings = environment.near_misses(&ROOT);
    explain::line_breaks(tree, &ROOT, &mut Vec::new(), sources, &mut warnings);
    warnings.into()
}

fn from_value(value: &Value, place: Position) -> Node {
    let data = match value {
        Value::Null => Data::Null,
        Value::Bool(flag) => Data::Bool(*flag),
        Value::Number(number) => Data::Number(number.clone()),
        Value::String(text) => Data::Untyped(text.clone()),
        Value::Array(items) => Data::List(items.iter().map(|item| from_value(item, place)).collect()),
        Value::Object(members) => Data::Map(
            members.iter().map(|(key, value)| Entry::new(key.clone(), place, from_value(value, place))).collect(),
        ),
    };
    Node::new(data, place)
}
