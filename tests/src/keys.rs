//! Certificates and JWTs, made for one test.

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use data_encoding::BASE64URL_NOPAD;
use nkeys::KeyPair;
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer};
use serde_json::{Value, json};

/// An authority that signs certificates.
#[derive(Debug)]
pub struct Authority {
    issuer: Issuer<'static, rcgen::KeyPair>,
    /// Its own certificate, as PEM.
    pub file: PathBuf,
}

/// A certificate and its key, as PEM files.
#[derive(Debug)]
pub struct Certificate {
    /// The certificate.
    pub file: PathBuf,
    /// Its private key.
    pub key_file: PathBuf,
}

impl Authority {
    /// A new one, whose files go to `folder`.
    pub fn new(folder: &Path, name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = rcgen::KeyPair::generate().unwrap();
        let file = folder.join(format!("{name}.pem"));
        std::fs::write(&file, params.self_signed(&key).unwrap().pem()).unwrap();
        Self { issuer: Issuer::new(params, key), file }
    }

    /// A certificate for `host`, good for both ends of a connection.
    pub fn certify(&self, host: &str) -> Certificate {
        let mut params = CertificateParams::new([host.to_owned()]).unwrap();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let stem = self.file.with_extension("");
        let [file, key_file] = ["", "-key"].map(|part| PathBuf::from(format!("{}-{host}{part}.pem", stem.display())));
        std::fs::write(&file, certificate.pem()).unwrap();
        std::fs::write(&key_file, key.serialize_pem()).unwrap();
        Certificate { file, key_file }
    }
}

/// An operator with one account, as a server with JWTs knows them.
#[derive(Debug)]
pub struct Operator {
    account: KeyPair,
    user_limits: Value,
    /// The server's settings.
    pub settings: String,
}

impl Operator {
    /// A new one.
    pub fn new() -> Self {
        Self::with_limits(&json!({}), &json!({}))
    }

    /// A new one whose account, and whose users, have these limits; -1 is none, and goes without saying.
    pub fn with_limits(account_limits: &Value, user_limits: &Value) -> Self {
        let (operator, account) = (KeyPair::new_operator(), KeyPair::new_account());
        let operator_jwt = jwt(&operator, &operator.public_key(), json!({ "type": "operator" }));
        let mut limits: Value = ["subs", "data", "payload", "imports", "exports", "conn", "leaf"]
            .iter()
            .map(|limit| ((*limit).to_owned(), json!(-1)))
            .chain([("wildcards".to_owned(), json!(true))])
            .collect();
        merge(&mut limits, account_limits);
        let account_jwt = jwt(&operator, &account.public_key(), json!({ "type": "account", "limits": limits }));
        let settings = format!(
            "operator: {operator_jwt}\nresolver: MEMORY\nresolver_preload: {{ {}: {account_jwt} }}",
            account.public_key()
        );
        Self { account, user_limits: user_limits.clone(), settings }
    }

    /// The text of a `.creds` file of a new user of the account.
    pub fn credentials(&self) -> String {
        let user = KeyPair::new_user();
        let mut claims = json!({ "type": "user", "subs": -1, "data": -1, "payload": -1, "pub": {}, "sub": {} });
        merge(&mut claims, &self.user_limits);
        let jwt = jwt(&self.account, &user.public_key(), claims);
        format!(
            "-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n\
             -----BEGIN USER NKEY SEED-----\n{}\n------END USER NKEY SEED------\n",
            user.seed().unwrap()
        )
    }
}

impl Default for Operator {
    fn default() -> Self {
        Self::new()
    }
}

fn merge(into: &mut Value, from: &Value) {
    for (key, value) in from.as_object().unwrap() {
        into[key] = value.clone();
    }
}

/// What `issuer` says of `subject`, signed.
fn jwt(issuer: &KeyPair, subject: &str, mut claims: Value) -> String {
    claims["version"] = json!(2);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let body = json!({ "jti": subject, "iat": now, "iss": issuer.public_key(), "sub": subject, "name": "test", "nats": claims });
    let header = json!({ "typ": "JWT", "alg": "ed25519-nkey" });
    let signed = [header, body].map(|part| BASE64URL_NOPAD.encode(part.to_string().as_bytes())).join(".");
    let signature = BASE64URL_NOPAD.encode(&issuer.sign(signed.as_bytes()).unwrap());
    format!("{signed}.{signature}")
}
