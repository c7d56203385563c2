//! What an agent's calls take of the server, in figures that do not depend on the machine:
//! instructions, and statements sent to the database.

#![expect(clippy::unwrap_used, reason = "tests")]

mod instructions;
mod refusals;
mod stack;
mod statements;
