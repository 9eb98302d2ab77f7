//! The files of contents: each is written once, synced, and never changed.
//!
//! Names are random, spread over 256 folders, so that no folder grows with the store.

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use data_encoding::HEXLOWER;

use super::BlobStoreError;

/// The name of a file.
pub(super) type FileId = [u8; 16];

pub(super) struct Files {
    directory: PathBuf,
}

impl Files {
    /// Makes what is missing of the folders.
    pub(super) fn open(directory: &Path) -> Result<Self, BlobStoreError> {
        let make = || -> std::io::Result<()> {
            let mut builder = std::fs::DirBuilder::new();
            std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
            builder.recursive(true).create(directory)?;
            for folder in 0..=u8::MAX {
                builder.create(directory.join(HEXLOWER.encode(&[folder])))?;
            }
            File::open(directory)?.sync_all()
        };
        make().map_err(|source| BlobStoreError::File {
            path: directory.to_owned(),
            source,
        })?;
        Ok(Self {
            directory: directory.to_owned(),
        })
    }

    fn folder(&self, file: FileId) -> PathBuf {
        self.directory.join(HEXLOWER.encode(&file[..1]))
    }

    fn path(&self, file: FileId) -> PathBuf {
        self.folder(file).join(HEXLOWER.encode(&file))
    }

    fn failed(&self, file: FileId) -> impl FnOnce(std::io::Error) -> BlobStoreError {
        let path = self.path(file);
        move |source| BlobStoreError::File { path, source }
    }

    pub(super) fn create(&self) -> Result<(FileId, File), BlobStoreError> {
        let id: FileId = rand::random();
        let file = File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(self.path(id));
        Ok((id, file.map_err(self.failed(id))?))
    }

    pub(super) fn write(&self, id: FileId, mut file: &File, bytes: &[u8]) -> Result<(), BlobStoreError> {
        file.write_all(bytes).map_err(self.failed(id))
    }

    /// The content and the name are on the disk.
    pub(super) fn sync(&self, id: FileId, file: &File) -> Result<(), BlobStoreError> {
        let sync = || {
            file.sync_all()?;
            File::open(self.folder(id))?.sync_all()
        };
        sync().map_err(self.failed(id))
    }

    pub(super) fn open_file(&self, id: FileId) -> Result<File, BlobStoreError> {
        File::open(self.path(id)).map_err(self.failed(id))
    }

    pub(super) fn read(&self, id: FileId, file: &File, bytes: &mut [u8], offset: u64) -> Result<(), BlobStoreError> {
        file.read_exact_at(bytes, offset).map_err(self.failed(id))
    }

    /// Removes files; one that is left is removed at the next start.
    pub(super) fn remove(&self, files: &[FileId]) {
        for file in files {
            if let Err(error) = std::fs::remove_file(self.path(*file))
                && error.kind() != std::io::ErrorKind::NotFound
            {
                tracing::warn!(file = %self.path(*file).display(), %error, "a file of a removed blob is left until the next start");
            }
        }
    }

    /// Calls `visit` with each file; names that are none of ours are left alone.
    pub(super) fn for_each(
        &self,
        mut visit: impl FnMut(FileId) -> Result<(), BlobStoreError>,
    ) -> Result<(), BlobStoreError> {
        for folder in 0..=u8::MAX {
            let path = self.directory.join(HEXLOWER.encode(&[folder]));
            let failed = |source| BlobStoreError::File {
                path: path.clone(),
                source,
            };
            for entry in std::fs::read_dir(&path).map_err(failed)? {
                let name = entry.map_err(failed)?.file_name();
                let id = name.to_str().and_then(|name| HEXLOWER.decode(name.as_bytes()).ok());
                if let Some(Ok(id)) = id.map(FileId::try_from) {
                    visit(id)?;
                }
            }
        }
        Ok(())
    }
}
