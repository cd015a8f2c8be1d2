//! A primary with a synchronous standby, each behind a proxy: services know the addresses of the proxies
//! only, whichever servers are behind them.

use backscroll_testkit::{
    cutter::{Cutter, Mode},
    postgres::Postgres,
    within,
};

use super::{PATIENCE, postgres, prepare_at};

/// How a primary tells that a commit waits for its standby.
const IS_SYNCHRONOUS: &str =
    "select count(*) from pg_stat_replication where sync_state = 'sync' and state = 'streaming'";

/// The two servers.
pub(super) struct Servers {
    pub(super) primary: Postgres,
    /// It has every commit that was acknowledged.
    standby: Postgres,
    /// The proxies before the primary and before the standby.
    pub(super) cutters: [Cutter; 2],
    stores: u64,
}

impl Servers {
    /// `None` if PostgreSQL is not installed.
    pub(super) fn start() -> Option<Self> {
        let primary = postgres()?;
        let standby = follow(&primary);
        let cutters = [&primary, &standby].map(|it| Cutter::start(it.address()));
        Some(Self { primary, standby, cutters, stores: 0 })
    }

    /// Makes an empty store; returns its place. It has both addresses: one is of the primary.
    pub(super) fn prepare(&mut self) -> String {
        self.stores += 1;
        let database = format!("store{}", self.stores);
        self.primary.sql("postgres", &format!("create database {database}"));
        let [first, second] = self.cutters.each_ref().map(Cutter::address);
        let place =
            format!("postgres://owner@{first},{second}/{database}?target_session_attrs=read-write");
        prepare_at(&place);
        place
    }

    /// Kills the primary, makes a primary of its standby, and starts another standby.
    pub(super) fn fail_over(&mut self) {
        self.primary.kill();
        self.cutters[0].set_mode(Mode::Refuse);
        self.standby.promote();
        let standby = follow(&self.standby);
        std::mem::swap(&mut self.primary, &mut self.standby);
        self.standby = standby;
        self.cutters[0].redirect(self.standby.address());
        self.cutters[0].set_mode(Mode::Forward);
        self.cutters.swap(0, 1);
    }
}

/// Starts a standby, and makes commits wait for it.
fn follow(primary: &Postgres) -> Postgres {
    let standby = primary.standby("standby");
    primary.sql("postgres", "alter system set synchronous_standby_names = 'standby'");
    primary.sql("postgres", "select pg_reload_conf()");
    within(PATIENCE, "commits wait for the standby", || {
        primary.sql("postgres", IS_SYNCHRONOUS) == "1\n"
    });
    standby
}
