//! Who speaks: components, nested as `parent:child`.

use std::ops::Range;

use tracing::Span;

/// The target of the spans that only name a component; no directive silences it.
pub(crate) const COMPONENT_TARGET: &str = "mlx_log::component";

/// A span that names a component for every line logged within it, and for the components nested in it.
///
/// It is there whatever is logged, and writes no line of its own. Any span with a field `component` does the same while
/// its level is in force, and so does that field on a single event:
///
/// ```
/// let _nats = mlx_log::component("nats").entered();
/// tracing::info!("connected");                                    // component: nats
/// let _stream = tracing::info_span!("stream", component = "stream", request = 7).entered();
/// tracing::info!(component = "assembly", "gap");                  // component: nats:stream:assembly
/// ```
///
/// A line outside any component is named after its target, the module path: `mlx_nats:connection`.
pub fn component(name: &str) -> Span {
    tracing::error_span!(target: COMPONENT_TARGET, "component", component = name)
}

/// The component of one line. Spans are met from the inside out; the text reads from the outside in.
#[derive(Default)]
pub(crate) struct Path {
    names: String,
    segments: Vec<Range<usize>>,
    text: String,
}

impl Path {
    /// Adds the next component further out; an empty name is none.
    pub(crate) fn push_parent(&mut self, name: &str) {
        if !name.is_empty() {
            let start = self.names.len();
            self.names.push_str(name);
            self.segments.push(start..self.names.len());
        }
    }

    /// Joins the spans' components and the event's own; without any of them, the target's modules.
    pub(crate) fn finish(&mut self, own: &str, target: &str) {
        let spans = self.segments.iter().rev().filter_map(|segment| self.names.get(segment.clone()));
        for name in spans.chain(Some(own).filter(|own| !own.is_empty())) {
            if !self.text.is_empty() {
                self.text.push(':');
            }
            self.text.push_str(name);
        }
        if self.text.is_empty() {
            for module in target.split("::") {
                if !self.text.is_empty() {
                    self.text.push(':');
                }
                self.text.push_str(module);
            }
        }
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.text
    }

    pub(crate) fn clear(&mut self) {
        self.names.clear();
        self.segments.clear();
        self.text.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(parents: &[&str], own: &str) -> String {
        let mut path = Path::default();
        for parent in parents {
            path.push_parent(parent);
        }
        path.finish(own, "mlx_nats::connection");
        path.as_str().to_owned()
    }

    #[test]
    fn l2_components_nest_from_the_outside_in() {
        assert_eq!(path(&["stream", "", "nats"], "assembly"), "nats:stream:assembly");
        assert_eq!(path(&["nats"], ""), "nats");
        assert_eq!(path(&[], "nats"), "nats");
        assert_eq!(path(&[], ""), "mlx_nats:connection");
    }
}
