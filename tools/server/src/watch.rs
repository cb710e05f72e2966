//! Waiting until model files may have changed, without looking at them.
//!
//! On Linux the folders of the files are watched by inotify. What it would not tell is found by looking again and
//! again: changes behind a symbolic link, and those that other machines make to a file system.

use std::path::PathBuf;
use std::time::Duration;

use tokio::time::{sleep, timeout};

/// Where model files are, as the command line says it.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    /// A file.
    File(PathBuf),
    /// A folder of files, and so many levels of folders below it.
    Folder(PathBuf, usize),
}

/// Something that tells of changes since it was made; nothing where it would not tell of all.
pub(crate) struct Watch(Option<notified::Changes>);

/// Longest time without a look even where changes are told: a mount over a folder is not.
const LONGEST: Duration = Duration::from_secs(60);

impl Watch {
    /// Watches. Looks at folders, so it may block. For a thread of a runtime.
    pub(crate) fn new(places: &[Place]) -> Self {
        Self(notified::Changes::of(places).inspect_err(|e| tracing::debug!("polling: {e}")).ok())
    }

    /// Returns when something may have changed, `period` later at the earliest: changes rarely come alone.
    pub(crate) async fn changed(&self, period: Duration) {
        if let Some(changes) = &self.0 {
            let _ = timeout(LONGEST, changes.come()).await;
        }
        sleep(period).await;
    }
}

#[cfg(target_os = "linux")]
mod notified {
    use std::fs;
    use std::io::{self, ErrorKind};
    use std::os::fd::OwnedFd;
    use std::path::{Path, absolute};

    use rustix::fs::inotify::{CreateFlags, WatchFlags, add_watch, init};
    use rustix::fs::statfs;
    use tokio::io::Interest;
    use tokio::io::unix::AsyncFd;

    use super::Place;

    /// The `f_type` of file systems all of whose changes go through this kernel: ext2 to ext4, XFS, Btrfs, F2FS, tmpfs,
    /// overlayfs.
    const LOCAL: [u32; 6] =
        [0xef53, 0x5846_5342, 0x9123_683e, 0xf2f5_2010, 0x0102_1994, 0x794c_7630];

    /// inotify's queue, which is never read: one event is all there is to know.
    pub(super) struct Changes(AsyncFd<OwnedFd>);

    impl Changes {
        pub(super) fn of(places: &[Place]) -> io::Result<Self> {
            let queue = init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
            for place in places {
                match place {
                    Place::File(path) => watch_file(&queue, &absolute(path)?)?,
                    Place::Folder(path, levels) => {
                        let path = absolute(path)?;
                        watch_path(&queue, &path)?;
                        watch_folder(&queue, &path, *levels)?;
                    }
                }
            }
            // SAFETY: an `OwnedFd` names the same open file until it is dropped, and nobody but the `AsyncFd`
            // has it from here on.
            Ok(Self(unsafe { AsyncFd::register_with_interest(queue, Interest::READABLE) }?))
        }

        pub(super) async fn come(&self) {
            // An error is one of the runtime, which ends.
            let _ = self.0.readable().await;
        }
    }

    fn watch_file(queue: &OwnedFd, path: &Path) -> io::Result<()> {
        watch_path(queue, path)?;
        watch_entries(queue, path.parent().unwrap_or(path))
    }

    fn watch_folder(queue: &OwnedFd, path: &Path, levels: usize) -> io::Result<()> {
        // Before it is listed: what comes later is told.
        watch_entries(queue, path)?;
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            let kind = entry.file_type()?;
            if kind.is_symlink() {
                return Err(link(&entry.path()));
            }
            if kind.is_dir() && levels > 0 {
                watch_folder(queue, &entry.path(), levels - 1)?;
            }
        }
        Ok(())
    }

    fn watch_entries(queue: &OwnedFd, folder: &Path) -> io::Result<()> {
        if !LOCAL.contains(&(statfs(folder)?.f_type as u32)) {
            let message = format!("{}: not known as a local file system", folder.display());
            return Err(io::Error::new(ErrorKind::Unsupported, message));
        }
        let changes = WatchFlags::CREATE
            | WatchFlags::MOVE
            | WatchFlags::DELETE
            | WatchFlags::CLOSE_WRITE
            | WatchFlags::ATTRIB;
        add_watch(queue, folder, changes | WatchFlags::MASK_ADD)?;
        Ok(())
    }

    /// Watches whether `path` goes on to lead to where it leads now.
    fn watch_path(queue: &OwnedFd, path: &Path) -> io::Result<()> {
        for step in path.ancestors() {
            if fs::symlink_metadata(step)?.is_symlink() {
                return Err(link(step));
            }
            let moves = WatchFlags::MOVE_SELF | WatchFlags::DELETE_SELF;
            add_watch(queue, step, moves | WatchFlags::MASK_ADD)?;
        }
        Ok(())
    }

    fn link(path: &Path) -> io::Error {
        let message = format!("{} is a symbolic link", path.display());
        io::Error::new(ErrorKind::Unsupported, message)
    }

    #[cfg(test)]
    mod tests {
        use std::os::unix::fs::symlink;
        use std::path::PathBuf;
        use std::time::Duration;

        use super::*;

        fn folder(name: &str) -> PathBuf {
            let path =
                std::env::temp_dir().join(format!("skipstone-{name}-{}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            fs::canonicalize(path).unwrap()
        }

        /// Whether `change` is told to those who watch `place`.
        async fn tells(place: &Place, change: impl FnOnce()) -> bool {
            let changes = Changes::of(std::slice::from_ref(place)).unwrap();
            change();
            tokio::time::timeout(Duration::from_millis(20), changes.come()).await.is_ok()
        }

        #[tokio::test]
        async fn changes_are_told() {
            let root = folder("told");
            let (models, file) = (root.join("models"), root.join("models/a/1/m.skip"));
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(&file, "one").unwrap();
            let replace = || {
                fs::write(root.join("new"), "two").unwrap();
                fs::rename(root.join("new"), &file).unwrap();
            };
            let (one, all) = (Place::File(file.clone()), Place::Folder(models.clone(), 2));
            for place in [&one, &all] {
                assert!(!tells(place, || drop(fs::read(&file))).await);
                assert!(tells(place, replace).await);
                assert!(tells(place, || fs::write(&file, "three").unwrap()).await);
            }
            assert!(tells(&all, || fs::create_dir(models.join("b")).unwrap()).await);
            assert!(tells(&all, || fs::create_dir(models.join("b/1")).unwrap()).await);
            assert!(tells(&one, || fs::rename(&models, root.join("old")).unwrap()).await);
            fs::remove_dir_all(root).unwrap();
        }

        #[tokio::test]
        async fn links_are_not_watched() {
            let root = folder("links");
            fs::create_dir(root.join("v1")).unwrap();
            fs::write(root.join("v1/m.skip"), "").unwrap();
            symlink(root.join("v1"), root.join("now")).unwrap();
            assert!(Changes::of(&[Place::File(root.join("now/m.skip"))]).is_err());
            assert!(Changes::of(&[Place::Folder(root.clone(), 2)]).is_err());
            fs::remove_dir_all(root).unwrap();
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod notified {
    use std::io::{self, ErrorKind};

    /// There are none: this never is.
    pub(super) enum Changes {}

    impl Changes {
        pub(super) fn of(_: &[super::Place]) -> io::Result<Self> {
            Err(ErrorKind::Unsupported.into())
        }

        pub(super) async fn come(&self) {
            match *self {}
        }
    }
}
