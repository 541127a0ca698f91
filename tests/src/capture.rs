//! Everything that is logged, at the most verbose level, whoever logs it.

use std::fmt::{self, Write as _};
use std::sync::{Arc, Mutex, OnceLock};

use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber, span};
use tracing_subscriber::Registry;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};

/// The log of this process, from now on and for good.
pub fn captured_log() -> &'static Log {
    static LOG: OnceLock<Log> = OnceLock::new();
    LOG.get_or_init(|| {
        let log = Log::default();
        tracing::subscriber::set_global_default(Registry::default().with(log.clone())).expect("no other subscriber");
        log
    })
}

/// What was logged, one line an event or a span: its target, its level, and its fields by name.
#[derive(Clone, Debug, Default)]
pub struct Log(Arc<Mutex<String>>);

impl Log {
    /// All of it so far.
    pub fn text(&self) -> String {
        self.0.lock().unwrap().clone()
    }

    fn line(&self, metadata: &tracing::Metadata<'_>, record: impl FnOnce(&mut Fields<'_>)) {
        let mut text = self.0.lock().unwrap();
        write!(text, "{} {} {}", metadata.level(), metadata.target(), metadata.name()).unwrap();
        record(&mut Fields(&mut text));
        text.push('\n');
    }
}

impl<S: Subscriber> Layer<S> for Log {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        self.line(event.metadata(), |fields| event.record(fields));
    }

    fn on_new_span(&self, attributes: &span::Attributes<'_>, _: &span::Id, _: Context<'_, S>) {
        self.line(attributes.metadata(), |fields| attributes.record(fields));
    }
}

struct Fields<'a>(&'a mut String);

impl Visit for Fields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        write!(self.0, " {field}={value:?}").unwrap();
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        // Both forms, since a formatter may choose either, and every cause.
        let mut next = Some(value);
        while let Some(error) = next {
            write!(self.0, " {field}={error} {error:?}").unwrap();
            next = error.source();
        }
    }
}
