//! Disks that fail on command: a file system in an image file whose power can be cut, and a small one that fills up.
//!
//! A power cut loses exactly what the kernel has not written yet. So a node writes to an ext4 file system in an image;
//! at some moment its processes are frozen and the image is copied. The copy contains what had reached the disk by
//! then, and not what was only in the page cache. Mounting the copy replays its journal, as the next start of a real
//! box does. A disk whose own cache reorders or loses writes is not modelled.
//!
//! It requires root, `mount` and, for images, loop devices. A disk is unmounted when it is dropped, even by a panic;
//! its loop device goes with the mount.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rustix::fs::FallocateFlags;
use tempfile::TempDir;

use crate::daemon::make_dir;
use crate::install::{install, left_out, runs};

/// After a node has closed its database, the database's threads close their files a moment later.
const UNMOUNT_DEADLINE: Duration = Duration::from_secs(10);
const UNMOUNT_PAUSE: Duration = Duration::from_millis(5);
/// The frozen node writes nothing, but the kernel may be writing for it: two equal copies in a row show one moment.
/// Writing back a small image takes a fraction of this many tries.
const COPY_TRIES: usize = 50;
/// The mounted file system flushes its journal this often, so that many cuts come after a flush that no node asked for.
const JOURNAL_SECONDS: u32 = 1;
/// A disk is filled in pieces of this size, then with smaller ones.
const FILL_BYTES: usize = 64 << 10;
const FILLER: &str = "filler";
/// The memory file system that is filled to make writes fail.
const FAILING_ROOM_MIB: u64 = 2;
/// ext4's block size, set explicitly.
const FS_BLOCK: usize = 4096;

/// What a node's directory is on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DiskKind {
    /// The file system of the temporary directories.
    #[default]
    Shared,
    /// ext4 in an image of this many MiB, whose power can be cut.
    Ext4 { mib: u64 },
    /// A file system in memory of this many KiB, which is soon full.
    Tmpfs { kib: u64 },
    /// ext4 on a block device that fails writes on command; its power can be cut.
    ///
    /// The device is a loop device over an image in a small file system in memory. Where the image has a hole, a write
    /// needs room in that file system; if there is none, the device fails it. A hole reads as zeros, so only pieces
    /// without data become holes: those that a log has not reached yet. An error injected into a system call shows
    /// less: it leaves the kernel's pages dirty, while a failed write-back leaves them clean and not on the disk.
    Failing { mib: u64 },
}

/// Whether disks can be made here; prints the reason if not.
pub fn available() -> bool {
    static FOUND: OnceLock<Result<(), String>> = OnceLock::new();
    said(FOUND.get_or_init(probe))
}

/// Whether system calls can be made to fail here; prints the reason if not.
pub fn faults_available() -> bool {
    static FOUND: OnceLock<Result<(), String>> = OnceLock::new();
    said(FOUND.get_or_init(|| {
        if !runs("strace", &["-V"]) && !install(&["strace"]) {
            return Err("strace is not installed".to_owned());
        }
        let may_trace = runs("strace", &["-f", "-o", "/dev/null", "/bin/true"]);
        may_trace.then_some(()).ok_or("strace may not trace here".to_owned())
    }))
}

fn said(found: &Result<(), String>) -> bool {
    found.as_ref().inspect_err(|why| left_out(why)).is_ok()
}

fn probe() -> Result<(), String> {
    if !rustix::process::geteuid().is_root() {
        return Err("only root can mount the disks that are to fail".to_owned());
    }
    if !runs("mkfs.ext4", &["-V"]) && !install(&["e2fsprogs"]) {
        return Err("mkfs.ext4 is not installed".to_owned());
    }
    let dir = TempDir::with_prefix("reloop-disk-").map_err(|error| error.to_string())?;
    let (image, at) = (dir.path().join("probe.img"), dir.path().join("mount"));
    make_dir(&at);
    let tried = make_image(&image, 8, &[]).and_then(|()| mount_image(&image, &at));
    tried.map_err(|why| format!("no loop device can be mounted here: {why}"))?;
    unmount(&at)
}

#[derive(Debug)]
pub struct Disk {
    at: PathBuf,
    /// For ext4: the newest image, and how many there were before.
    image: Option<(PathBuf, u32)>,
    /// The file system of a failing disk's image; unmounted after it.
    back: Option<Box<Disk>>,
}

impl Disk {
    /// Mounts a new, empty disk on this directory. `None` for [`DiskKind::Shared`].
    pub fn mount(kind: DiskKind, at: &Path) -> Option<Self> {
        make_dir(at);
        let at = at.to_owned();
        match kind {
            DiskKind::Shared => None,
            DiskKind::Tmpfs { kib } => {
                let size = format!("size={kib}k");
                must(run("mount", &["-t", "tmpfs", "-o", &size, "none"], &[&at]));
                Some(Self { at, image: None, back: None })
            }
            DiskKind::Ext4 { mib } => {
                let image = image_of(&at, 0);
                must(make_image(&image, mib, &[]));
                must(mount_image(&image, &at));
                Some(Self { at, image: Some((image, 0)), back: None })
            }
            DiskKind::Failing { mib } => {
                let kib = (mib + FAILING_ROOM_MIB) << 10;
                let back = Disk::mount(DiskKind::Tmpfs { kib }, &at.with_extension("back"))?;
                let image = back.path().join("disk.img");
                must(make_image(&image, mib, &["-b", "4096"]));
                // The holes that mkfs leaves are the journal and the tables, which must not fail.
                let file = File::options().write(true).open(&image).expect("it was just made");
                let all = rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, mib << 20);
                all.expect("the file system in memory has room for it");
                must(mount_image(&image, &at));
                Some(Self { at, image: Some((image, 0)), back: Some(Box::new(back)) })
            }
        }
    }

    pub fn path(&self) -> &Path {
        &self.at
    }

    /// The disk after a power cut at this moment, as an image beside the mounted one. Its writers must be frozen.
    pub fn as_the_power_cut_leaves_it(&self) -> PathBuf {
        let (image, cuts) = self.image.as_ref().expect("only an image survives a power cut");
        let copy = image_of(&self.at, cuts + 1);
        copy_at_rest(image, &copy);
        copy
    }

    /// Mounts the image of [`Disk::as_the_power_cut_leaves_it`] instead of the disk. No file of the disk may be open
    /// any more.
    pub fn come_back_as(&mut self, copy: PathBuf) {
        must(unmount(&self.at));
        must(mount_image(&copy, &self.at));
        if let Some((old, cuts)) = self.image.replace((copy, 0)) {
            self.image.as_mut().expect("it was just set").1 = cuts + 1;
            fs::remove_file(&old).unwrap_or_else(|error| panic!("cannot remove {}: {error}", old.display()));
        }
    }

    /// Fills it up, all but about `leave_bytes`.
    pub fn fill(&self, leave_bytes: u64) {
        let path = self.at.join(FILLER);
        let mut file = File::options().create(true).append(true).open(&path).expect("a new file has room");
        let mut piece = FILL_BYTES;
        while piece > 0 {
            let room = usize::try_from(self.free_bytes().saturating_sub(leave_bytes)).unwrap_or(usize::MAX);
            piece = piece.min(room);
            match file.write(&vec![1; piece]) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::StorageFull => piece /= 2,
                Err(error) => panic!("cannot fill {}: {error}", self.at.display()),
            }
        }
    }

    /// Removes what [`Disk::fill`] wrote.
    pub fn make_room(&self) {
        fs::remove_file(self.at.join(FILLER)).expect("the filler can be removed");
    }

    /// From now on the disk fails each write to a block of this file that contains only zeros. Only for
    /// [`DiskKind::Failing`].
    pub fn fail_writes(&self, file: &Path) {
        let (image, _) = self.image.as_ref().expect("a failing disk has an image");
        let image = File::options().read(true).write(true).open(image).expect("it is there");
        let (mut block, mut holes) = (vec![0; FS_BLOCK], 0);
        for number in blocks_of(file) {
            let at = number * FS_BLOCK as u64;
            image.read_exact_at(&mut block, at).expect("the image can be read");
            if block.iter().all(|byte| *byte == 0) {
                let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                rustix::fs::fallocate(&image, punch, at, FS_BLOCK as u64).expect("tmpfs knows holes");
                holes += 1;
            }
        }
        assert!(holes > 0, "no block of {} is empty", file.display());
        self.back.as_ref().expect("only a failing disk fails").fill(0);
    }

    /// Ends [`Disk::fail_writes`].
    pub fn take_writes(&self) {
        self.back.as_ref().expect("only a failing disk fails").make_room();
    }

    /// Makes every change of one of its files fail, even for root; `on = false` ends that. Only on ext4.
    pub fn make_immutable(&self, file: &Path, on: bool) {
        must(run("chattr", &[if on { "+i" } else { "-i" }], &[file]));
    }

    /// Makes the kernel find an error in the file system and remount it read-only, as with a dying disk. Only on ext4.
    pub fn turn_read_only(&self) {
        let mounts = fs::read_to_string("/proc/self/mountinfo").expect("Linux lists its mounts");
        let at = format!(" {} ", self.at.display());
        let line = mounts.lines().find(|line| line.contains(&at)).expect("it is mounted");
        let device = line.split("/dev/").nth(1).and_then(|rest| rest.split(' ').next());
        let switch = format!("/sys/fs/ext4/{}/trigger_fs_error", device.expect("it stands on a loop device"));
        fs::write(&switch, "1").unwrap_or_else(|error| panic!("{switch}: {error}"));
    }

    pub fn free_bytes(&self) -> u64 {
        let found = rustix::fs::statvfs(&self.at).expect("a mounted file system says what is free");
        found.f_bavail * found.f_frsize
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let Err(why) = unmount(&self.at) else { return };
        // At least the path becomes free; the kernel unmounts it when its last file is closed.
        let lazily = run("umount", &["--lazy"], &[&self.at]);
        println!("{} was not unmounted at once: {why} {lazily:?}", self.at.display());
    }
}

/// The block numbers of a file on its file system.
fn blocks_of(file: &Path) -> Vec<u64> {
    let output = Command::new("filefrag").args(["-s", "-v", "-b4096"]).arg(file).output();
    let text = String::from_utf8(output.expect("filefrag comes with mkfs.ext4").stdout).expect("plain text");
    // "   0:        0..     127:      34816..     34943:    128:             last,eof"
    let extents = text.lines().filter_map(|line| {
        let mut columns = line.split(':');
        columns.next()?.trim().parse::<u64>().ok()?;
        let (from, to) = columns.nth(1)?.split_once("..")?;
        Some(from.trim().parse::<u64>().ok()?..=to.trim().parse().ok()?)
    });
    extents.flatten().collect()
}

/// Beside the mount and not in it.
fn image_of(at: &Path, number: u32) -> PathBuf {
    at.with_extension(format!("{number}.img"))
}

fn make_image(image: &Path, mib: u64, more: &[&str]) -> Result<(), String> {
    let file = File::create(image).and_then(|file| file.set_len(mib << 20));
    file.map_err(|error| format!("{}: {error}", image.display()))?;
    let words = ["-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0"];
    run("mkfs.ext4", &[&words[..], more].concat(), &[image])
}

fn mount_image(image: &Path, at: &Path) -> Result<(), String> {
    run("mount", &["-o", &format!("loop,errors=remount-ro,commit={JOURNAL_SECONDS}")], &[image, at])
}

fn unmount(at: &Path) -> Result<(), String> {
    let end = Instant::now() + UNMOUNT_DEADLINE;
    loop {
        match run("umount", &[], &[at]) {
            Err(why) if why.contains("busy") && Instant::now() < end => std::thread::sleep(UNMOUNT_PAUSE),
            done => return done,
        }
    }
}

fn run(program: &str, args: &[&str], paths: &[&Path]) -> Result<(), String> {
    let output = Command::new(program).args(args).args(paths).stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}

fn must(done: Result<(), String>) {
    if let Err(why) = done {
        panic!("{why}");
    }
}

fn copy_at_rest(image: &Path, copy: &Path) {
    for _ in 0..COPY_TRIES {
        copy_sparse(image, copy).unwrap_or_else(|error| panic!("cannot copy the image: {error}"));
        if same(image, copy).unwrap_or_else(|error| panic!("cannot compare the images: {error}")) {
            return;
        }
    }
    panic!("{} is written to although everybody is frozen", image.display());
}

const BLOCK: usize = 64 << 10;

/// Keeps holes, so that an image takes only the space of its data.
fn copy_sparse(from: &Path, to: &Path) -> io::Result<()> {
    let (mut from, to) = (File::open(from)?, File::create(to)?);
    to.set_len(from.metadata()?.len())?;
    let mut block = vec![0; BLOCK];
    let mut at = 0;
    loop {
        let count = from.read(&mut block)?;
        if count == 0 {
            return Ok(());
        }
        if block[..count].iter().any(|byte| *byte != 0) {
            to.write_all_at(&block[..count], at)?;
        }
        at += count as u64;
    }
}

fn same(one: &Path, other: &Path) -> io::Result<bool> {
    let (mut one, mut other) = (File::open(one)?, File::open(other)?);
    let (mut left, mut right) = (vec![0; BLOCK], vec![0; BLOCK]);
    loop {
        let count = one.read(&mut left)?;
        if count == 0 {
            return Ok(true);
        }
        other.read_exact(&mut right[..count])?;
        if left[..count] != right[..count] {
            return Ok(false);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_power_cut_keeps_what_was_synced_and_loses_what_was_not() {
        if !available() {
            return;
        }
        let dir = TempDir::with_prefix("reloop-disk-").unwrap();
        let mut disk = Disk::mount(DiskKind::Ext4 { mib: 16 }, &dir.path().join("mount")).unwrap();
        let synced = disk.path().join("synced");
        fs::write(&synced, "kept").unwrap();
        File::open(&synced).unwrap().sync_all().unwrap();
        File::open(disk.path()).unwrap().sync_all().unwrap();
        fs::write(disk.path().join("unsynced"), "lost").unwrap();
        let copy = disk.as_the_power_cut_leaves_it();
        disk.come_back_as(copy);
        assert_eq!(fs::read_to_string(&synced).unwrap(), "kept");
        let unsynced = fs::read_to_string(disk.path().join("unsynced")).unwrap_or_default();
        assert_ne!(unsynced, "lost", "a disk that keeps everything shows nothing");
        drop(disk);
        assert!(!synced.exists(), "it is unmounted");
    }

    #[test]
    fn a_full_disk_takes_nothing_until_there_is_room_again() {
        if !available() {
            return;
        }
        let dir = TempDir::with_prefix("reloop-disk-").unwrap();
        let disk = Disk::mount(DiskKind::Tmpfs { kib: 512 }, &dir.path().join("mount")).unwrap();
        disk.fill(0);
        let full = fs::write(disk.path().join("more"), vec![1; 8192]);
        assert_eq!(full.unwrap_err().kind(), io::ErrorKind::StorageFull);
        disk.make_room();
        fs::write(disk.path().join("more"), vec![1; 8192]).unwrap();
    }

    #[test]
    fn a_panic_leaves_nothing_mounted() {
        if !available() {
            return;
        }
        let dir = TempDir::with_prefix("reloop-disk-").unwrap();
        let at = dir.path().join("mount");
        let panicked = std::panic::catch_unwind(|| {
            let _disk = Disk::mount(DiskKind::Ext4 { mib: 8 }, &at).unwrap();
            panic!("on purpose");
        });
        assert!(panicked.is_err());
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(at.to_str().unwrap()), "{mounts}");
    }
}
