//! Limits that change, and buckets that become one, while requests are under way.

use proptest::prelude::*;

use super::world::{World, catalogue, history, mask};
use super::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// Whatever is set anew or joined: what was under way counts, what the books held counts on,
    /// nothing counts that does not exist, and nothing panics.
    #[test]
    fn nothing_is_lost_by_a_change(
        limits in (mask(), mask(), mask()), history in history(true),
    ) {
        let of = |mask| catalogue(mask, 0);
        let mut world = World::new(of(limits.0), of(limits.1), of(limits.2));
        world.agrees();
        for (gap, op) in history {
            world.now += gap;
            world.act(op);
            world.agrees();
        }
        world.end_all();
        world.agrees();
        // All of it leaves in the end.
        world.now += 700_000;
        let now = world.at();
        let states = world.gate.state(BUCKET, now);
        let rolling = states.iter().filter(|state| state.limit.window != Window::Day);
        for state in rolling {
            prop_assert_eq!((state.used, state.reserved), (0, 0), "{:?}", state);
        }
    }
}
