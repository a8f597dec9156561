//! A certificate for this machine, which nobody trusts who is not told its file.

use std::{fs, path::PathBuf};

use rcgen::{CertifiedKey, generate_simple_self_signed};

pub struct Certificate {
    folder: tempfile::TempDir,
}

impl Certificate {
    /// For `localhost`.
    pub fn make() -> Self {
        let made = generate_simple_self_signed(["localhost".to_string()]);
        let CertifiedKey { cert, signing_key } = made.expect("a certificate is made");
        let this = Self {
            folder: tempfile::tempdir().expect("a temporary folder"),
        };
        fs::write(this.file(), cert.pem()).expect("a file is written");
        fs::write(this.key_file(), signing_key.serialize_pem()).expect("a file is written");
        this
    }

    /// PEM; also what `SSL_CERT_FILE` names to trust it.
    pub fn file(&self) -> PathBuf {
        self.folder.path().join("certificate.pem")
    }

    /// PEM.
    pub fn key_file(&self) -> PathBuf {
        self.folder.path().join("key.pem")
    }
}
