//! Any text is a configuration or a report: the loader neither panics nor hangs, what it takes holds, and it takes little time
//! and memory for it, drawing included.

#![no_main]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

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
    let began = processor_time();
    load(yaml);
    let (took, most) = (processor_time() - began, MOST.load(Ordering::Relaxed).saturating_sub(before));
    tell_records(yaml.len(), took, most);
    assert!(took < TIME, "{took:?} for {} bytes", yaml.len());
    assert!(most < MEMORY, "{most} bytes of memory for {} bytes", yaml.len());
});

/// Of this thread: what else the machine does takes no time of ours.
fn processor_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or_default())
}

/// Says when an input took more time or memory than all before it.
fn tell_records(length: usize, took: Duration, most: usize) {
    static SLOWEST: AtomicUsize = AtomicUsize::new(0);
    static LARGEST: AtomicUsize = AtomicUsize::new(0);
    let micros = usize::try_from(took.as_micros()).unwrap_or(usize::MAX);
    if micros > SLOWEST.fetch_max(micros, Ordering::Relaxed) {
        eprintln!("record: {micros} us for {length} bytes");
    }
    if most > LARGEST.fetch_max(most, Ordering::Relaxed) {
        eprintln!("record: {} KiB of memory for {length} bytes", most >> 10);
    }
}

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
