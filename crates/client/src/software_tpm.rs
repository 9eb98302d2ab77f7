//! A TPM 2.0 in software, for simulated devices and tests: Debian's `swtpm` as a process, driven by `tpm2-tools`.
//!
//! Why the tools: they send what clients of real TPMs send (Spec provisioning §7.4, §7.7), and nothing of a TPM's commands is
//! written here again.
//! Invariants: the process ends with its value; its state lies in a folder of its own, which is removed with it.
//! Not here: how a device registers with it. All calls block; a call takes up to a second.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use tempfile::TempDir;

/// The handles where clients keep the endorsement key, the storage root key and the key that signs.
const ENDORSEMENT: &str = "0x81010001";
const STORAGE_ROOT: &str = "0x81000001";
const SIGNING: &str = "0x81000100";

/// Where the TPM listens, on an address of its own; the tools expect its control channel at the next port.
const PORT: u16 = 24_321;
/// What tpm2-tools put before a credential.
const CREDENTIAL_HEAD: [u8; 8] = [0xba, 0xdc, 0xc0, 0xde, 0, 0, 0, 1];
/// The parts of an activation blob (Spec provisioning §7.2).
const BLOB_PARTS: usize = 6;
/// How long the process may take until it answers.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// See the module.
#[derive(Debug)]
pub struct SoftwareTpm {
    process: Child,
    folder: TempDir,
    /// How the tools reach it.
    tcti: String,
}

/// The public keys of a TPM, each a `TPM2B_PUBLIC`.
#[derive(Debug, Clone)]
pub struct PublicKeys {
    /// By which an enrollment knows the TPM.
    pub endorsement: Vec<u8>,
    /// To which keys are encrypted.
    pub storage_root: Vec<u8>,
}

impl Drop for SoftwareTpm {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl SoftwareTpm {
    /// Whether `swtpm` and the tools are installed.
    #[must_use]
    pub fn is_installed() -> bool {
        let path = std::env::var_os("PATH").unwrap_or_default();
        ["swtpm", "tpm2_createek"]
            .iter()
            .all(|tool| std::env::split_paths(&path).any(|folder| folder.join(tool).exists()))
    }

    /// Starts a TPM without keys, on a random address of the loopback network.
    ///
    /// # Errors
    /// `swtpm` or the tools are missing, or the process ends or does not answer.
    pub fn start() -> Result<Self> {
        ensure!(
            Self::is_installed(),
            "a software TPM needs swtpm and tpm2-tools (Debian: apt install swtpm tpm2-tools)"
        );
        let folder = tempfile::tempdir()?;
        let [high, middle, low]: [u8; 3] = rand::random();
        let address = format!("127.{}.{middle}.{}", 128 | high, low.clamp(1, 254));
        let state = format!("dir={}", folder.path().display());
        let server = format!("type=tcp,port={PORT},bindaddr={address},disconnect=off");
        let control = format!("type=tcp,port={},bindaddr={address}", PORT + 1);
        let process = Command::new("swtpm")
            .args(["socket", "--tpm2", "--flags", "not-need-init,startup-clear"])
            .args(["--tpmstate", &state, "--server", &server, "--ctrl", &control])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .context("cannot start swtpm")?;
        let mut tpm = Self {
            process,
            folder,
            tcti: format!("swtpm:host={address},port={PORT}"),
        };
        let begun = Instant::now();
        while let Err(error) = tpm.run("tpm2_getcap properties-fixed") {
            if let Some(status) = tpm.process.try_wait()? {
                bail!("swtpm has ended: {status}");
            }
            if begun.elapsed() > START_TIMEOUT {
                return Err(error.context("swtpm does not answer"));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(tpm)
    }

    /// Makes the endorsement key and the storage root key, as clients do.
    ///
    /// # Errors
    /// A tool fails.
    pub fn make_keys(&self) -> Result<PublicKeys> {
        self.run(&format!("tpm2_createek -G rsa -c {ENDORSEMENT} -u ek.made"))?;
        self.run(&format!("tpm2_readpublic -c {ENDORSEMENT} -o ek.pub"))?;
        self.run(
            "tpm2_createprimary -C o -g sha256 -G rsa2048:null:aes128cfb \
             -a restricted|decrypt|fixedtpm|fixedparent|noda|userwithauth|sensitivedataorigin -c srk.ctx",
        )?;
        self.run(&format!("tpm2_evictcontrol -C o -c srk.ctx {STORAGE_ROOT}"))?;
        self.run(&format!("tpm2_readpublic -c {STORAGE_ROOT} -o srk.pub"))?;
        self.run("tpm2_flushcontext -t")?;
        Ok(PublicKeys {
            endorsement: self.read("ek.pub")?,
            storage_root: self.read("srk.pub")?,
        })
    }

    /// Loads the key in an activation blob, which takes the place of the one before.
    ///
    /// # Errors
    /// The blob is not for this TPM, or damaged.
    pub fn activate(&self, blob: &[u8]) -> Result<()> {
        let parts = parts(blob)?;
        self.write("credential", &[&CREDENTIAL_HEAD, parts[0], parts[1]].concat())?;
        self.write("duplicate", parts[2])?;
        self.write("seed", parts[3])?;
        self.write("key.pub", parts[4])?;
        self.run("tpm2_startauthsession --policy-session -S session")?;
        self.run("tpm2_policysecret -S session -c e")?;
        self.run(&format!(
            "tpm2_activatecredential -c {STORAGE_ROOT} -C {ENDORSEMENT} -i credential -o inner -P session:session"
        ))?;
        self.run("tpm2_flushcontext session")?;
        self.run(&format!(
            "tpm2_import -C {STORAGE_ROOT} -i duplicate -u key.pub -s seed -k inner -r key.priv"
        ))?;
        self.run(&format!(
            "tpm2_load -C {STORAGE_ROOT} -u key.pub -r key.priv -c key.ctx"
        ))?;
        let persistent = self.run("tpm2_getcap handles-persistent")?;
        if String::from_utf8_lossy(&persistent).contains(SIGNING) {
            self.run(&format!("tpm2_evictcontrol -C o -c {SIGNING}"))?;
        }
        self.run(&format!("tpm2_evictcontrol -C o -c key.ctx {SIGNING}"))?;
        self.run("tpm2_flushcontext -t")?;
        Ok(())
    }

    /// HMAC-SHA256 of `message` with the key that was activated last: 32 bytes.
    ///
    /// # Errors
    /// No key was activated.
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>> {
        self.write("message", message)?;
        self.run(&format!("tpm2_hmac -c {SIGNING} -o signature message"))?;
        self.read("signature")
    }

    /// Runs a tool in the TPM's folder; its words stand between blanks. Returns its output.
    fn run(&self, line: &str) -> Result<Vec<u8>> {
        let mut words = line.split_whitespace();
        let output = Command::new(words.next().unwrap_or_default())
            .args(words)
            .env("TPM2TOOLS_TCTI", &self.tcti)
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .output();
        let output = output.with_context(|| format!("cannot run {line}"))?;
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{line}: {}", error.trim());
        Ok(output.stdout)
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    fn read(&self, name: &str) -> Result<Vec<u8>> {
        fs::read(self.path(name)).with_context(|| format!("the TPM's tools have written no {name}"))
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let path = self.path(name);
        // Some tools refuse to write over a file, and none reads what is left of a longer one.
        remove(&path)?;
        fs::write(&path, bytes).with_context(|| path.display().to_string())
    }
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error).context(path.display().to_string()),
        _ => Ok(()),
    }
}

/// The parts of a blob, each with its length in front.
fn parts(mut blob: &[u8]) -> Result<[&[u8]; BLOB_PARTS]> {
    let mut parts = [&[][..]; BLOB_PARTS];
    for part in &mut parts {
        let length = blob.first_chunk::<2>().context("the activation blob is too short")?;
        let length = 2 + usize::from(u16::from_be_bytes(*length));
        let (taken, rest) = blob
            .split_at_checked(length)
            .context("a part of the activation blob is longer than the blob")?;
        (*part, blob) = (taken, rest);
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blob_has_six_parts() {
        let blob: Vec<u8> = (1..=6_u8).flat_map(|at| [0, 1, at]).collect();
        let parts = parts(&blob).unwrap();
        assert_eq!((parts[0], parts[5]), (&[0, 1, 1][..], &[0, 1, 6][..]));
        assert!(super::parts(&blob[..17]).is_err());
        assert!(super::parts(&blob[..15]).is_err());
    }
}
