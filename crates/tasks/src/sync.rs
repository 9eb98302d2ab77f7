//! Cells and locks for state that tasks share, which notice a panic in the middle of a change.
//!
//! Why: the task of a connection may panic and end alone ([`crate::spawn`]). If it was changing what others use, they
//! would continue with a broken state; so the process ends instead, as after any other panic.
//! Invariants: a guard that allows changes and is dropped by unwinding ends the process. A guard taken by a destructor
//! during unwinding is no reason to: its change is whole.
//! Not here: state of one connection, for which [`std::cell::RefCell`] is right; reads, which break nothing.

#![expect(clippy::disallowed_types, reason = "the module that the lint points to")]

use std::ops::{Deref, DerefMut};
use std::thread::panicking;

use crate::panic::shared_state_is_broken;

/// Set when the guard is made: whether its thread was unwinding already.
#[derive(Debug)]
struct Unwinding(bool);

impl Unwinding {
    fn now() -> Self {
        Self(panicking())
    }
}

impl Drop for Unwinding {
    fn drop(&mut self) {
        if panicking() && !self.0 {
            shared_state_is_broken();
        }
    }
}

/// [`std::cell::RefCell`] for state that the tasks of one thread share.
#[derive(Debug, Default)]
pub struct SharedCell<T: ?Sized>(std::cell::RefCell<T>);

impl<T> SharedCell<T> {
    /// A cell that holds `value`.
    pub const fn new(value: T) -> Self {
        Self(std::cell::RefCell::new(value))
    }
}

impl<T: ?Sized> SharedCell<T> {
    /// See [`std::cell::RefCell::borrow`].
    ///
    /// # Panics
    /// When the value is being changed.
    #[inline]
    pub fn borrow(&self) -> std::cell::Ref<'_, T> {
        self.0.borrow()
    }

    /// See [`std::cell::RefCell::borrow_mut`].
    ///
    /// # Panics
    /// When the value is borrowed.
    #[inline]
    pub fn borrow_mut(&self) -> RefMut<'_, T> {
        RefMut {
            _unwinding: Unwinding::now(),
            value: self.0.borrow_mut(),
        }
    }
}

impl<T: Default> SharedCell<T> {
    /// See [`std::cell::RefCell::take`].
    ///
    /// # Panics
    /// When the value is borrowed.
    pub fn take(&self) -> T {
        self.0.take()
    }
}

/// Exclusive access to the value in a [`SharedCell`].
#[derive(Debug)]
pub struct RefMut<'a, T: ?Sized> {
    // Dropped first: the process ends while the value is still borrowed.
    _unwinding: Unwinding,
    value: std::cell::RefMut<'a, T>,
}

/// [`parking_lot::Mutex`] for state that tasks share.
#[derive(Debug, Default)]
pub struct Mutex<T: ?Sized>(parking_lot::Mutex<T>);

impl<T> Mutex<T> {
    /// A mutex around `value`.
    pub const fn new(value: T) -> Self {
        Self(parking_lot::Mutex::new(value))
    }
}

impl<T: ?Sized> Mutex<T> {
    /// See [`parking_lot::Mutex::lock`].
    #[inline]
    pub fn lock(&self) -> MutexGuard<'_, T> {
        MutexGuard {
            _unwinding: Unwinding::now(),
            value: self.0.lock(),
        }
    }

    /// See [`parking_lot::Mutex::get_mut`].
    pub fn get_mut(&mut self) -> &mut T {
        self.0.get_mut()
    }
}

/// The lock of a [`Mutex`].
#[derive(Debug)]
pub struct MutexGuard<'a, T: ?Sized> {
    _unwinding: Unwinding,
    value: parking_lot::MutexGuard<'a, T>,
}

/// [`parking_lot::RwLock`] for state that tasks share.
#[derive(Debug, Default)]
pub struct RwLock<T: ?Sized>(parking_lot::RwLock<T>);

impl<T> RwLock<T> {
    /// A lock around `value`.
    pub const fn new(value: T) -> Self {
        Self(parking_lot::RwLock::new(value))
    }
}

impl<T: ?Sized> RwLock<T> {
    /// See [`parking_lot::RwLock::read`].
    #[inline]
    pub fn read(&self) -> parking_lot::RwLockReadGuard<'_, T> {
        self.0.read()
    }

    /// See [`parking_lot::RwLock::read_recursive`].
    #[inline]
    pub fn read_recursive(&self) -> parking_lot::RwLockReadGuard<'_, T> {
        self.0.read_recursive()
    }

    /// See [`parking_lot::RwLock::write`].
    #[inline]
    pub fn write(&self) -> RwLockWriteGuard<'_, T> {
        RwLockWriteGuard {
            _unwinding: Unwinding::now(),
            value: self.0.write(),
        }
    }
}

/// The exclusive lock of an [`RwLock`].
#[derive(Debug)]
pub struct RwLockWriteGuard<'a, T: ?Sized> {
    _unwinding: Unwinding,
    value: parking_lot::RwLockWriteGuard<'a, T>,
}

macro_rules! guard {
    ($($guard:ident),*) => {$(
        impl<T: ?Sized> Deref for $guard<'_, T> {
            type Target = T;

            #[inline]
            fn deref(&self) -> &T {
                &self.value
            }
        }

        impl<T: ?Sized> DerefMut for $guard<'_, T> {
            #[inline]
            fn deref_mut(&mut self) -> &mut T {
                &mut self.value
            }
        }
    )*};
}

guard!(RefMut, MutexGuard, RwLockWriteGuard);
