//! What the floors above keep for each client, without the client knowing them.

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

/// One value of each type.
#[derive(Default)]
pub(super) struct Rooms(Mutex<HashMap<TypeId, Arc<dyn Any + Send + Sync>>>);

impl Rooms {
    pub(super) fn get<T: Default + Send + Sync + 'static>(&self) -> Arc<T> {
        // Nothing inside the lock can panic half way.
        let mut rooms = self.0.lock();
        let room = Arc::clone(rooms.entry(TypeId::of::<T>()).or_insert_with(|| Arc::new(T::default())));
        // What stands under a type is of that type.
        room.downcast().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[test]
    fn a_room_is_one_for_all_who_ask_for_it() {
        let rooms = Rooms::default();
        rooms.get::<AtomicU64>().store(3, Ordering::Relaxed);
        assert_eq!(rooms.get::<AtomicU64>().load(Ordering::Relaxed), 3);
        assert_eq!(*rooms.get::<u64>(), 0);
    }
}
