//! An array map as memory: loads and stores of aligned words, which no reader sees torn. A system call's copy is not
//! promised to be that.

use std::{
    marker::PhantomData,
    mem::MaybeUninit,
    os::fd::AsFd,
    ptr::NonNull,
    sync::atomic::{AtomicU8, AtomicU64, Ordering},
};

use aya::{Pod, maps::MapData};
use rustix::mm::{MapFlags, ProtFlags};

use super::KernelError;

/// The elements of a map, shared with the packet program and with whoever else has the map.
pub(super) struct Mapped<T> {
    words: NonNull<AtomicU64>,
    len: u32,
    kind: PhantomData<T>,
}

// SAFETY: shared memory of atomics; no thread owns it.
unsafe impl<T> Send for Mapped<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Mapped<T> {}

impl<T: Pod> Mapped<T> {
    /// Words of an element.
    const WORDS: usize = {
        assert!(size_of::<T>().is_multiple_of(8) && size_of::<T>() > 0, "elements are whole words");
        size_of::<T>() / 8
    };

    /// Maps a whole array, which must have been made with BPF_F_MMAPABLE and for values of this size.
    pub(super) fn new(name: &'static str, map: &MapData) -> Result<Self, KernelError> {
        let what = "map an array into memory";
        let wrong = |reason: String| KernelError::Map { what, reason: format!("{name}: {reason}") };
        let info = map.info().map_err(KernelError::map(what))?;
        if info.value_size() as usize != size_of::<T>() {
            let (found, wanted) = (info.value_size(), size_of::<T>());
            return Err(wrong(format!("its values have {found} bytes, and should have {wanted}")));
        }
        let len = info.max_entries();
        let fd = map.fd().as_fd();
        // SAFETY: a new mapping at an address of the kernel's choice; the kernel refuses a map that is shorter.
        let memory = unsafe {
            rustix::mm::mmap(std::ptr::null_mut(), Self::bytes(len), Self::protection(), MapFlags::SHARED, fd, 0)
        };
        let memory = memory.map_err(|errno| wrong(errno.to_string()))?;
        let words = NonNull::new(memory.cast()).ok_or_else(|| wrong("the kernel gave address zero".to_owned()))?;
        Ok(Self { words, len, kind: PhantomData })
    }

    /// Memory of nobody else, zeroed: a map without a kernel.
    #[cfg(test)]
    pub(super) fn private(len: u32) -> Self {
        let (protection, flags) = (Self::protection(), MapFlags::PRIVATE);
        // SAFETY: a new mapping at an address of the kernel's choice.
        let memory = unsafe { rustix::mm::mmap_anonymous(std::ptr::null_mut(), Self::bytes(len), protection, flags) };
        let words = NonNull::new(memory.expect("memory").cast()).expect("not zero");
        Self { words, len, kind: PhantomData }
    }

    const fn protection() -> ProtFlags {
        ProtFlags::READ.union(ProtFlags::WRITE)
    }

    const fn bytes(len: u32) -> usize {
        len as usize * size_of::<T>()
    }

    /// How many elements.
    pub(super) const fn len(&self) -> u32 {
        self.len
    }

    /// All words, element after element.
    pub(super) fn words(&self) -> &[AtomicU64] {
        // SAFETY: the whole mapping, page-aligned at its start; its memory is only ever accessed atomically.
        unsafe { std::slice::from_raw_parts(self.words.as_ptr(), self.len as usize * Self::WORDS) }
    }

    /// The words of one element; `None` behind the end.
    pub(super) fn element(&self, index: u32) -> Option<&[AtomicU64]> {
        let first = index as usize * Self::WORDS;
        self.words().get(first..first + Self::WORDS)
    }

    /// One element, each of its words for itself; `None` behind the end.
    pub(super) fn load(&self, index: u32) -> Option<T> {
        let words = self.element(index)?;
        let mut value = MaybeUninit::<T>::uninit();
        let to = value.as_mut_ptr().cast::<u64>();
        for (nth, word) in words.iter().enumerate() {
            // SAFETY: within the value, which has as many words.
            unsafe { to.add(nth).write_unaligned(word.load(Ordering::Acquire)) };
        }
        // SAFETY: every byte was written, and plain data may hold any.
        Some(unsafe { value.assume_init() })
    }

    /// Writes an element, each of its words by one store, in order. Nothing happens behind the end.
    pub(super) fn store(&self, index: u32, value: &T) {
        let from = std::ptr::from_ref(value).cast::<u64>();
        for (nth, word) in self.element(index).unwrap_or_default().iter().enumerate() {
            // SAFETY: within the value, which has as many words, all of which are initialised plain data.
            word.store(unsafe { from.add(nth).read_unaligned() }, Ordering::Release);
        }
    }

    /// One word of an element.
    pub(super) fn word(&self, index: u32, nth: usize) -> Option<&AtomicU64> {
        self.element(index)?.get(nth)
    }

    /// Writes one word of an element by one store. Nothing happens behind the end.
    pub(super) fn store_word(&self, index: u32, nth: usize, word: u64) {
        if let Some(to) = self.word(index, nth) {
            to.store(word, Ordering::Release);
        }
    }

    /// Writes one word of an element, taken from a whole value.
    pub(super) fn store_word_of(&self, index: u32, nth: usize, value: &T) {
        if nth < Self::WORDS {
            // SAFETY: within the value, all of which is initialised plain data.
            let word = unsafe { std::ptr::from_ref(value).cast::<u64>().add(nth).read_unaligned() };
            self.store_word(index, nth, word);
        }
    }

    /// One byte of all; `None` behind the end. The packet program stores single bytes too.
    pub(super) fn byte(&self, offset: usize) -> Option<&AtomicU8> {
        if offset >= Self::bytes(self.len) {
            return None;
        }
        // SAFETY: within the mapping; its memory is only ever accessed atomically.
        Some(unsafe { self.words.cast::<AtomicU8>().add(offset).as_ref() })
    }
}

impl<T> Drop for Mapped<T> {
    fn drop(&mut self) {
        let bytes = self.len as usize * size_of::<T>();
        // SAFETY: the mapping made in `new`; no reference to it outlives `self`. It fails only for a wrong range.
        let _ = unsafe { rustix::mm::munmap(self.words.as_ptr().cast(), bytes) };
    }
}

#[cfg(test)]
mod tests {
    use grayxdp_common::{
        ids::Be16,
        layout::{BackendEntry, Endpoint, PoolTable},
    };

    use super::*;

    #[test]
    fn elements_come_back_as_they_were_stored_and_there_is_nothing_behind_the_end() {
        let mapped = Mapped::<BackendEntry>::private(3);
        let address = std::net::IpAddr::from([10, 0, 0, 1]).into();
        let entry =
            BackendEntry { endpoint: Endpoint::new(address, Be16::new(80), 6), service: 3, ..Default::default() };
        mapped.store(2, &entry);
        mapped.store(3, &entry);
        assert_eq!((mapped.load(2), mapped.load(1), mapped.load(3)), (Some(entry), Some(Default::default()), None));
        mapped.store_word_of(1, 2, &entry);
        let tail = mapped.load(1).expect("there");
        assert_eq!((tail.endpoint.port, tail.service, tail.endpoint.address), (Be16::new(80), 3, Default::default()));
    }

    #[test]
    fn bytes_and_words_are_the_same_memory() {
        let mapped = Mapped::<PoolTable>::private(2);
        mapped.store_word(1, 0, 0x0102_0304_0506_0708);
        assert_eq!(mapped.byte(8).expect("there").load(Ordering::Relaxed), 8);
        assert!(mapped.byte(16).is_none() && mapped.word(2, 0).is_none());
        assert_eq!((mapped.words().len(), mapped.len()), (2, 2));
    }
}
