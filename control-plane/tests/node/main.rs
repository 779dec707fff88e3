//! The control node on a model store: its rules one by one, its limits, what it stores, and a
//! property over random histories of two nodes.

mod limits;
mod property;
mod rig;
mod rules;
mod stored;
