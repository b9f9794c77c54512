//! The steps that happen at once, in Lua.

use redis::ScriptInvocation;

use crate::{
    RESPITE,
    limits::{RETENTION, SWEEP_GAP},
};

/// Names a script.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Script {
    Up,
    Renew,
    Down,
    Find,
    Report,
    Measured,
    Sweep,
    Sessions,
    Lease,
    Release,
}

impl Script {
    const ALL: [Self; 10] = [
        Self::Up,
        Self::Renew,
        Self::Down,
        Self::Find,
        Self::Report,
        Self::Measured,
        Self::Sweep,
        Self::Sessions,
        Self::Lease,
        Self::Release,
    ];

    const fn body(self) -> &'static str {
        match self {
            Self::Up => include_str!("scripts/up.lua"),
            Self::Renew => include_str!("scripts/renew.lua"),
            Self::Down => include_str!("scripts/down.lua"),
            Self::Find => include_str!("scripts/find.lua"),
            Self::Report => include_str!("scripts/report.lua"),
            Self::Measured => include_str!("scripts/measured.lua"),
            Self::Sweep => include_str!("scripts/sweep.lua"),
            Self::Sessions => include_str!("scripts/sessions.lua"),
            Self::Lease => include_str!("scripts/lease.lua"),
            Self::Release => include_str!("scripts/release.lua"),
        }
    }
}

/// All scripts, hashed once.
#[derive(Debug)]
pub(super) struct Scripts([redis::Script; Script::ALL.len()]);

impl Default for Scripts {
    fn default() -> Self {
        let constants = format!(
            "local RETENTION, SWEEP_GAP, RESPITE = {}, {}, {}\n",
            RETENTION.as_millis(),
            SWEEP_GAP.as_millis(),
            RESPITE.as_millis()
        );
        let prelude = include_str!("scripts/prelude.lua");
        Self(Script::ALL.map(|script| redis::Script::new(&format!("{constants}{prelude}{}", script.body()))))
    }
}

impl Scripts {
    pub(super) fn prepare(&self, script: Script) -> ScriptInvocation<'_> {
        self.0[script as usize].prepare_invoke()
    }
}
