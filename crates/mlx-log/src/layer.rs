//! From `tracing` to lines: collects what an event and the spans around it say, and hands the finished line on.

use std::borrow::Cow;
use std::cell::Cell;
use std::error::Error as StdError;
use std::sync::Arc;

use memchr::{memchr, memmem};
use tracing::field::{Field, Visit};
use tracing::metadata::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::Interest;
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Layer};
use tracing_subscriber::registry::LookupSpan;

use crate::clock::Timestamp;
use crate::component::Path;
use crate::fault::Fault;
use crate::fields::{EventFields, SpanFields};
use crate::filter::Filter;
use crate::syntax::{Line, Syntax};
use crate::value::{Value, record_values};
use crate::writer::Queue;

/// The one layer of the subscriber: filter, formatter and output.
pub(crate) struct LogLayer<S> {
    pub(crate) syntax: S,
    pub(crate) filter: Arc<Filter>,
    pub(crate) queue: Arc<Queue>,
}

impl<S, R> Layer<R> for LogLayer<S>
where
    S: Syntax,
    R: Subscriber + for<'a> LookupSpan<'a>,
{
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        if self.filter.enabled(metadata) { Interest::always() } else { Interest::never() }
    }

    fn enabled(&self, metadata: &Metadata<'_>, _context: Context<'_, R>) -> bool {
        self.filter.enabled(metadata)
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(self.filter.most_verbose())
    }

    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, R>) {
        let Some(span) = context.span(id) else { return };
        let mut fields = SpanFields::default();
        attributes.record(&mut SpanVisitor { syntax: &self.syntax, fields: &mut fields });
        span.extensions_mut().insert(fields);
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, R>) {
        let Some(span) = context.span(id) else { return };
        // Rendered before the span is locked: a `Debug` that logs would meet the lock again.
        let mut new = SpanFields::default();
        values.record(&mut SpanVisitor { syntax: &self.syntax, fields: &mut new });
        let mut extensions = span.extensions_mut();
        match extensions.get_mut::<SpanFields>() {
            Some(fields) => fields.update(new),
            None => extensions.insert(new),
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, R>) {
        let metadata = event.metadata();
        let mut scratch = Scratch::take();
        let Scratch { line, message, fields, own_component, path } = &mut *scratch;

        let mut visitor = EventVisitor { syntax: &self.syntax, message, fields, component: own_component, error: None };
        event.record(&mut visitor);
        let error = visitor.error;

        for span in context.event_scope(event).into_iter().flatten() {
            let extensions = span.extensions();
            let Some(around) = extensions.get::<SpanFields>() else { continue };
            path.push_parent(&around.component);
            for (key, value) in around.iter() {
                fields.add(&self.syntax, key, |out| out.extend_from_slice(value));
            }
        }
        path.finish(own_component, metadata.target());

        if let (true, Some(error)) = (message.is_empty(), &error) {
            self.syntax.message(message, &error.message);
        }
        self.syntax.line(
            line,
            &Line {
                timestamp: Timestamp::now(),
                level: *metadata.level(),
                component: path.as_str(),
                message,
                fields: fields.as_bytes(),
                error: error.as_ref(),
            },
        );
        hide_credentials(line);
        self.queue.push(line, *metadata.level() == Level::ERROR);
        scratch.give_back();
    }
}

/// A last safeguard: removes credentials of URLs from a line, in whichever way they got there.
fn hide_credentials(line: &mut Vec<u8>) {
    let url = memmem::find(line, b"://").and_then(|at| line.get(at..));
    if url.is_some_and(|url| memchr(b'@', url).is_some())
        && let Cow::Owned(hidden) = mlx_errors::redact(&String::from_utf8_lossy(line))
    {
        line.clear();
        line.extend_from_slice(hidden.as_bytes());
    }
}

/// The buffers of one event, kept by each thread so that an event allocates nothing once they have grown.
#[derive(Default)]
struct Scratch {
    line: Vec<u8>,
    message: Vec<u8>,
    fields: EventFields,
    own_component: String,
    path: Path,
}

thread_local! {
    // Empty while in use, so that an event from within an event (a `Debug` that logs) gets buffers of its own.
    static SCRATCH: Cell<Option<Box<Scratch>>> = const { Cell::new(None) };
}

impl Scratch {
    fn take() -> Box<Self> {
        SCRATCH.try_with(Cell::take).ok().flatten().unwrap_or_default()
    }

    fn give_back(mut self: Box<Self>) {
        /// One long line, a prompt perhaps, is not paid for in memory for ever.
        const KEEP: usize = 64 * 1024;
        if self.line.capacity() > KEEP {
            return;
        }
        self.line.clear();
        self.message.clear();
        self.fields.clear();
        self.own_component.clear();
        self.path.clear();
        // Fails only while the thread ends; then the buffers end with it.
        let _ = SCRATCH.try_with(|slot| slot.set(Some(self)));
    }
}

/// Sorts an event's fields into message, error, component and context.
struct EventVisitor<'a, S> {
    syntax: &'a S,
    message: &'a mut Vec<u8>,
    fields: &'a mut EventFields,
    component: &'a mut String,
    error: Option<Fault>,
}

impl<S: Syntax> EventVisitor<'_, S> {
    fn value(&mut self, field: &Field, value: Value<'_>) {
        match field.name() {
            "message" => {
                self.message.clear();
                self.syntax.message(self.message, &value);
            }
            "component" => value.replace(self.component),
            "error" => self.error = Some(Fault::from_text(value.to_text())),
            name => self.fields.add(self.syntax, name, |out| self.syntax.value(out, &value.guarded(name))),
        }
    }
}

impl<S: Syntax> Visit for EventVisitor<'_, S> {
    fn record_error(&mut self, field: &Field, value: &(dyn StdError + 'static)) {
        if field.name() == "error" {
            self.error = Some(Fault::from_error(value));
        } else {
            self.value(field, Value::Text(&mlx_errors::report(value).to_string()));
        }
    }

    record_values!();
}

/// Renders a span's fields once, when they are recorded.
struct SpanVisitor<'a, S> {
    syntax: &'a S,
    fields: &'a mut SpanFields,
}

impl<S: Syntax> SpanVisitor<'_, S> {
    fn value(&mut self, field: &Field, value: Value<'_>) {
        if field.name() == "component" {
            value.replace(&mut self.fields.component);
        } else {
            self.fields.set(field.name(), |out| self.syntax.value(out, &value.guarded(field.name())));
        }
    }
}

impl<S: Syntax> Visit for SpanVisitor<'_, S> {
    fn record_error(&mut self, field: &Field, value: &(dyn StdError + 'static)) {
        self.value(field, Value::Text(&mlx_errors::report(value).to_string()));
    }

    record_values!();
}
