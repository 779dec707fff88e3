//! A server with its devices and, if asked for, the floor with as many of its own. Both are there at
//! the same time and do everything in turn, so that what the machine does otherwise hits both.

use super::side::Side;
use super::stage::{FloorSide, Setting};

pub struct Pair {
    pub side: Box<dyn Side>,
    floor: Option<FloorSide>,
}

impl Pair {
    /// With all devices connected.
    pub fn start(setting: &Setting, connections: u32, floor: bool) -> anyhow::Result<Pair> {
        let mut side = setting.side(connections)?;
        side.open_all(connections)?;
        let mut pair = Pair { side, floor: None };
        if floor {
            let mut floor = FloorSide::start(setting, connections)?;
            floor.open_all(connections)?;
            pair.floor = Some(floor);
        }
        Ok(pair)
    }

    /// Does the same with both. In every other round the floor is first.
    pub fn each<T>(
        &mut self,
        round: usize,
        mut act: impl FnMut(&mut dyn Side) -> anyhow::Result<T>,
    ) -> anyhow::Result<(T, Option<T>)> {
        let Pair { side, floor: Some(floor) } = self else {
            return Ok((act(&mut *self.side)?, None));
        };
        if round.is_multiple_of(2) {
            let bare = act(floor)?;
            Ok((act(&mut **side)?, Some(bare)))
        } else {
            let own = act(&mut **side)?;
            Ok((own, Some(act(floor)?)))
        }
    }
}
