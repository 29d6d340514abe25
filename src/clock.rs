//! The one place that reads clocks. Everything else is handed a [`Now`].

use rustix::time::{ClockId, clock_gettime};

use crate::gate::units::{BootMs, Now, UnixMs};

/// Reads both clocks.
#[must_use]
pub fn now() -> Now {
    let boot = clock_gettime(ClockId::Boottime);
    let wall = clock_gettime(ClockId::Realtime);
    let millis = |time: rustix::time::Timespec| time.tv_sec * 1000 + time.tv_nsec / 1_000_000;
    Now { boot: BootMs(u64::try_from(millis(boot)).unwrap_or(0)), wall: UnixMs(millis(wall)) }
}

/// Identifies this boot of the machine: ages by `CLOCK_BOOTTIME` are exact within one boot only.
///
/// # Errors
/// When the kernel does not say.
pub fn boot_uuid() -> std::io::Result<String> {
    Ok(std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}
