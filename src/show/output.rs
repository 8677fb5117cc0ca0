//! The file of `--summary`: replaced as a whole at the end, so that a run that is killed leaves neither
//! an empty one nor a part.

use std::fs::{File, Permissions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};

/// A file that is to be written once.
#[derive(Debug)]
pub struct OutputFile {
    /// As the user gave it.
    path: PathBuf,
    /// A device, a pipe or a log that others write to: it is written in place, behind what is there.
    in_place: Option<File>,
}

impl OutputFile {
    /// Checks that `path` can be written, and leaves it as it is.
    pub fn new(path: PathBuf) -> io::Result<Self> {
        // What is behind these may be a regular file, such as a log, which must not be replaced.
        let passed_on =
            ["/dev/fd", "/dev/stdout", "/dev/stderr", "/proc/self/fd"].iter().any(|at| path.starts_with(at));
        let in_place = match std::fs::metadata(&path) {
            Ok(meta) if passed_on || !meta.is_file() => Some(File::options().append(true).open(&path)?),
            Ok(_) => File::options().write(true).open(&path).map(|_| None)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                access(folder(&path), Access::WRITE_OK).map(|()| None)?
            }
            Err(error) => return Err(error),
        };
        Ok(OutputFile { path, in_place })
    }

    /// The path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes all of it.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if let Some(file) = &mut self.in_place {
            return file.write_all(bytes);
        }
        // Where the path is a symlink, the file behind it is replaced.
        let path = std::fs::canonicalize(&self.path).unwrap_or_else(|_| self.path.clone());
        match replace(&path, bytes) {
            // A file that may be written in a folder that may not.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => std::fs::write(&path, bytes),
            result => result,
        }
    }
}

/// The folder that a path is in.
fn folder(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Puts a file with these bytes in the place of what is at `path`.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    // With the permissions of the file that it replaces.
    let permissions: Option<Permissions> = std::fs::metadata(path).ok().map(|meta| meta.permissions());
    let written = File::options().write(true).create_new(true).open(&name).and_then(|mut file| {
        permissions.map_or(Ok(()), |permissions| file.set_permissions(permissions))?;
        file.write_all(bytes)?;
        std::fs::rename(&name, path)
    });
    if written.is_err() {
        let _ = std::fs::remove_file(&name);
    }
    written
}
