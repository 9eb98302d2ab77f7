//! A software TPM (swtpm) loads what the hub has encrypted to it, and signs with it.
//!
//! Needs Debian's `swtpm` and `tpm2-tools`; without them the test says so and passes, except in continuous integration.
#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test fails by panicking, and waits for a process"
)]

use std::array::from_fn;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use data_encoding::HEXLOWER;
use hmac::{Hmac, KeyInit as _, Mac as _};
use holdfast_auth::tpm::{ActivationRandom, TpmPublicKey, activation_blob};
use sha2::Sha256;

/// Where the clients keep the endorsement key, the storage root key and the HMAC key.
const ENDORSEMENT: &str = "0x81010001";
const STORAGE_ROOT: &str = "0x81000001";
const HMAC_KEY: &str = "0x81000100";

struct SoftwareTpm {
    process: Child,
    folder: tempfile::TempDir,
    tcti: String,
}

impl Drop for SoftwareTpm {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl SoftwareTpm {
    /// On a loopback address of this process, since the tools need two ports that follow each other.
    fn start() -> Self {
        const PORT: u16 = 24_321;
        let folder = tempfile::tempdir().unwrap();
        let [_, high, middle, low] = std::process::id().to_be_bytes();
        let address = format!("127.{}.{middle}.{low}", 128 | high);
        let process = Command::new("swtpm")
            .args(["socket", "--tpm2", "--flags", "not-need-init,startup-clear"])
            .arg("--tpmstate")
            .arg(format!("dir={}", folder.path().display()))
            .arg("--server")
            .arg(format!("type=tcp,port={PORT},bindaddr={address},disconnect=off"))
            .arg("--ctrl")
            .arg(format!("type=tcp,port={},bindaddr={address}", PORT + 1))
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let tpm = Self {
            process,
            folder,
            tcti: format!("swtpm:host={address},port={PORT}"),
        };
        let begun = Instant::now();
        while !tpm
            .command("tpm2_getcap properties-fixed")
            .output()
            .unwrap()
            .status
            .success()
        {
            assert!(begun.elapsed() < Duration::from_secs(30), "swtpm does not answer");
            std::thread::sleep(Duration::from_millis(20));
        }
        tpm
    }

    fn command(&self, line: &str) -> Command {
        let mut words = line.split_whitespace();
        let mut command = Command::new(words.next().unwrap());
        command
            .args(words)
            .env("TPM2TOOLS_TCTI", &self.tcti)
            .current_dir(self.folder.path());
        command
    }

    /// Runs a tool; returns its output, and fails with its error.
    fn run(&self, line: &str) -> String {
        let output = self.command(line).output().unwrap();
        assert!(
            output.status.success(),
            "{line}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    }

    fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.folder.path().join(name)).unwrap()
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        fs::write(self.folder.path().join(name), bytes).unwrap();
    }

    /// Makes both keys as the clients do, and returns their public areas.
    fn keys(&self) -> (Vec<u8>, Vec<u8>) {
        self.run(&format!("tpm2_createek -G rsa -c {ENDORSEMENT} -u ek.made"));
        self.run(&format!("tpm2_readpublic -c {ENDORSEMENT} -o ek.pub"));
        self.run(
            "tpm2_createprimary -C o -g sha256 -G rsa2048:null:aes128cfb \
             -a restricted|decrypt|fixedtpm|fixedparent|noda|userwithauth|sensitivedataorigin -c srk.ctx",
        );
        self.run(&format!("tpm2_evictcontrol -C o -c srk.ctx {STORAGE_ROOT}"));
        self.run(&format!("tpm2_readpublic -c {STORAGE_ROOT} -o srk.pub"));
        self.run("tpm2_flushcontext -t");
        (self.read("ek.pub"), self.read("srk.pub"))
    }

    /// Loads the key of a blob as the clients do (Spec provisioning §7.4).
    fn activate(&self, blob: &[u8]) {
        let parts = parts(blob);
        // The head that tpm2-tools put before a credential.
        self.write(
            "credential",
            &[&hex("badcc0de00000001")[..], parts[0], parts[1]].concat(),
        );
        self.write("duplicate", parts[2]);
        self.write("seed", parts[3]);
        self.write("key.pub", parts[4]);
        self.run("tpm2_startauthsession --policy-session -S session");
        self.run("tpm2_policysecret -S session -c e");
        self.run(&format!(
            "tpm2_activatecredential -c {STORAGE_ROOT} -C {ENDORSEMENT} -i credential -o inner -P session:session"
        ));
        self.run("tpm2_flushcontext session");
        self.run(&format!(
            "tpm2_import -C {STORAGE_ROOT} -i duplicate -u key.pub -s seed -k inner -r key.priv"
        ));
        self.run(&format!(
            "tpm2_load -C {STORAGE_ROOT} -u key.pub -r key.priv -c key.ctx"
        ));
        if self.run("tpm2_getcap handles-persistent").contains(HMAC_KEY) {
            self.run(&format!("tpm2_evictcontrol -C o -c {HMAC_KEY}"));
        }
        self.run(&format!("tpm2_evictcontrol -C o -c key.ctx {HMAC_KEY}"));
        self.run("tpm2_flushcontext -t");
    }

    fn hmac(&self, message: &[u8]) -> String {
        self.write("message", message);
        self.run(&format!("tpm2_hmac -c {HMAC_KEY} --hex message"))
    }
}

/// The parts of a blob, each with its length.
fn parts(mut blob: &[u8]) -> Vec<&[u8]> {
    let mut parts = Vec::new();
    while let Some(length) = blob.first_chunk::<2>() {
        let (part, rest) = blob.split_at(2 + usize::from(u16::from_be_bytes(*length)));
        parts.push(part);
        blob = rest;
    }
    parts
}

fn hex(text: &str) -> Vec<u8> {
    HEXLOWER.decode(text.as_bytes()).unwrap()
}

fn is_installed(tool: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| Path::new(&folder).join(tool).exists())
}

fn random(from: u8) -> ActivationRandom {
    ActivationRandom {
        inner_key: from_fn(|at| from ^ u8::try_from(at).unwrap()),
        credential_seed: [from; 32],
        import_seed: [from ^ 0x55; 32],
        blinding: [from ^ 0xaa; 32],
    }
}

#[test]
fn a_software_tpm_signs_with_the_key_that_was_encrypted_to_it() {
    if !is_installed("swtpm") || !is_installed("tpm2_createek") {
        assert!(
            std::env::var_os("CI").is_none(),
            "swtpm and tpm2-tools are not installed"
        );
        eprintln!("skipped: swtpm and tpm2-tools are not installed");
        return;
    }
    let tpm = SoftwareTpm::start();
    let (endorsement, storage_root) = tpm.keys();
    assert_eq!((endorsement.len(), storage_root.len()), (316, 284));
    let endorsement = TpmPublicKey::parse(&endorsement).unwrap();
    let storage_root = TpmPublicKey::parse(&storage_root).unwrap();
    let message = b"0ne00000001%2Fregistrations%2Fdev-1\n1900000000";
    // The second key replaces the first, as the hub's key replaces the nonce.
    for (from, key) in [(1, vec![0x17; 32]), (2, (0..64).collect())] {
        let blob = activation_blob(&endorsement, &storage_root, &key, "hub1.example.com", &random(from)).unwrap();
        tpm.activate(&blob);
        let expected = Hmac::<Sha256>::new_from_slice(&key).unwrap().chain_update(message);
        assert_eq!(tpm.hmac(message), HEXLOWER.encode(&expected.finalize().into_bytes()));
    }
}
