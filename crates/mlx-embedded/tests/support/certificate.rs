//! A certificate for `localhost`.

use std::path::Path;
use std::process::Command;

use mlx_types::config::NatsConfig;

/// A server at `localhost` with a certificate that an authority of its own has signed.
pub(crate) fn with_certificate(folder: &Path) -> NatsConfig {
    let openssl = |arguments: &[&str]| {
        let output =
            Command::new("openssl").args(arguments).current_dir(folder).output().expect("openssl is installed");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
    let authority =
        ["req", "-x509", "-subj", "/CN=Test Authority", "-days", "2", "-keyout", "ca.key", "-out", "ca.pem"];
    openssl(&[&authority[..], &key].concat());
    openssl(&[&["req", "-subj", "/CN=localhost", "-keyout", "key.pem", "-out", "request.pem"][..], &key].concat());
    std::fs::write(folder.join("names"), "subjectAltName=DNS:localhost,IP:127.0.0.1").unwrap();
    openssl(&[
        "x509",
        "-req",
        "-in",
        "request.pem",
        "-CA",
        "ca.pem",
        "-CAkey",
        "ca.key",
        "-CAcreateserial",
        "-days",
        "2",
        "-extfile",
        "names",
        "-out",
        "cert.pem",
    ]);
    let mut config = crate::support::any_port();
    "localhost".clone_into(&mut config.embedded.host);
    config.tls.ca_file = Some(folder.join("ca.pem"));
    config.tls.cert_file = Some(folder.join("cert.pem"));
    config.tls.key_file = Some(folder.join("key.pem"));
    config
}
