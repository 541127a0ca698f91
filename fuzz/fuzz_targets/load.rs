//! Any text is a configuration or a report: the loader neither panics nor hangs, and what it takes holds.

#![no_main]

use libfuzzer_sys::fuzz_target;
use mlx_config::Loader;
use mlx_errors::ErrorKind;

fuzz_target!(|yaml: &str| {
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
});
