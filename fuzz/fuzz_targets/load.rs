//! Any text is a configuration or a report: the loader neither panics nor hangs, what it takes holds, and it takes little time
//! and memory for it, drawing included.

#![no_main]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use libfuzzer_sys::fuzz_target;
use mlx_config::Loader;
use mlx_errors::ErrorKind;

/// For a file of 1 MiB.
const TIME: Duration = Duration::from_secs(1);
const MEMORY: usize = 100 << 20;

/// Counts what is in use, and the most that was.
struct Counting;

static IN_USE: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

// Safety: passes every call on to the system's allocator as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let in_use = IN_USE.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        MOST.fetch_max(in_use, Ordering::Relaxed);
        // Safety: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        IN_USE.fetch_sub(layout.size(), Ordering::Relaxed);
        // Safety: as the caller promises.
        unsafe { System.dealloc(place, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fuzz_target!(|yaml: &str| {
    let before = IN_USE.load(Ordering::Relaxed);
    MOST.store(before, Ordering::Relaxed);
    let began = Instant::now();
    load(yaml);
    let (took, most) = (began.elapsed(), MOST.load(Ordering::Relaxed).saturating_sub(before));
    assert!(took < TIME, "{took:?} for {} bytes", yaml.len());
    assert!(most < MEMORY, "{most} bytes of memory for {} bytes", yaml.len());
});

fn load(yaml: &str) {
    let loader = Loader::new().text("fuzz.yaml", yaml).env_map([("PORT", "4222"), ("TEXT", "a: b\n- \"x\"")]);
    match loader.load() {
        Ok(loaded) => assert!(loaded.config().check().is_ok()),
        Err(error) => {
            let (ErrorKind::ConfigSyntax { violations } | ErrorKind::ConfigValidation { violations }) = error.kind()
            else {
                // Larger than any configuration.
                assert!(matches!(error.kind(), ErrorKind::ConfigRead { .. }), "{error:?}");
                return;
            };
            assert!(!violations.is_empty(), "refused without a word");
            assert!(!loader.draw(&error, false).is_empty());
        }
    }
}
