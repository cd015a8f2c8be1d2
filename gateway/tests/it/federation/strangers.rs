//! Unauthenticated clients name servers that accept connections and never respond. The keys of other servers
//! are fetched meanwhile.

use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::{self, Instant};

use super::world::{World, ask_from, granted};
use crate::support::peer::Peer;

const AT: &str = "5.1.1.1:99";
/// Longer than one fetch, and much shorter than all fetches one after another.
const SOON: Duration = Duration::from_secs(10);

/// The number of made-up names, and the client address of each.
struct Attack {
    what: &'static str,
    names: u32,
    from: fn(u32) -> String,
    honest: &'static str,
    /// Whether the keys of the well-behaved server were known before.
    is_known: bool,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn made_up_names_do_not_stop_other_fetches() {
    for attack in [
        Attack {
            what: "as many as eight a second make, from the address of the honest one",
            names: 48,
            from: |_| "192.0.2.1".to_owned(),
            honest: "192.0.2.1",
            is_known: false,
        },
        Attack {
            what: "from one address",
            names: 400,
            from: |_| "192.0.2.66".to_owned(),
            honest: "192.0.2.1",
            is_known: false,
        },
        Attack {
            what: "from a few addresses",
            names: 400,
            from: |nth| format!("192.0.2.{}", 60 + nth % 5),
            honest: "192.0.2.1",
            is_known: false,
        },
        Attack {
            what: "from many addresses, one each",
            names: 400,
            from: |nth| format!("198.18.{}.{}", nth / 200, nth % 200),
            honest: "198.19.0.1",
            is_known: true,
        },
    ] {
        let Attack { what, names, from, honest, is_known } = attack;
        let world = World::new().await;
        world.silent("5.6.6.6:99").await;
        let gateway = world.gateway_behind_a_proxy().await;
        let peer = Peer::new("h.example:99", 7);
        world.server(&peer, AT).await;
        if is_known {
            let ended = peer.key_answer_until(1);
            gateway.history.put_keys(&peer.name, ended, 1);
        }
        let strangers = (0..names).map(|nth| Peer::new(&format!("n{nth}.example:99"), 66));
        let strangers: Vec<Peer> = strangers.collect();
        for nth in 0..names {
            world.dns.address(&format!("n{nth}.example"), "5.6.6.6");
        }
        let attacking = strangers
            .iter()
            .zip(0..)
            .map(async |(stranger, nth)| ask_from(&gateway, stranger, &from(nth)).await);
        let attacking = join_all(attacking);
        let asking = async {
            // Until the attack uses all that it can.
            while world.dialled_so_far() < usize::try_from(names.min(80)).unwrap() {
                time::sleep(Duration::from_millis(10)).await;
            }
            let asked = Instant::now();
            let answer = ask_from(&gateway, &peer, honest).await;
            println!("{what}: the honest server waited for {:?}", asked.elapsed());
            answer
        };
        let asking = time::timeout(SOON, asking);
        tokio::select! {
            _ = attacking => panic!("{what}: the attack was over before"),
            answer = asking => assert_eq!(answer.expect(what), granted(), "{what}"),
        }
    }
}
