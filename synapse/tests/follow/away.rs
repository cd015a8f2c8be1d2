//! A history service that is away, and several followers at once.

use backscroll_testkit::room::{Event, Room};

use crate::{
    next, room_with,
    world::{Follower, World},
};

/// Appends some messages to a room of the homeserver.
async fn send_more(world: &World, room: &Room, events: &mut Vec<Event>) {
    for _ in 0..3 {
        let number = events.len();
        events.push(next(room, events, &format!("more {number}")));
        world.homeserver.send(room, &[events.last().unwrap()]).await;
    }
}

/// Waits until a follower has logged a text this number of times.
async fn until_logged(world: &mut World, follower: &Follower, text: &str, times: usize) {
    let what = format!("a follower has logged {text:?} {times} times");
    world.until(&what, async |_| follower.log().matches(text).count() >= times).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_while_the_history_service_is_away() {
    let Some(mut world) = World::start().await else { return };
    let (room, mut events) = room_with("room", 3);
    world.homeserver.room(&room).await;
    world.homeserver.send(&room, &events.iter().collect::<Vec<_>>()).await;
    world.follow();
    world.until_equal(&[]).await;
    world.stop_history().await;
    send_more(&world, &room, &mut events).await;
    let tries = "cannot follow, and try again";
    world.until("the follower says so", async |world| world.log().contains(tries)).await;
    send_more(&world, &room, &mut events).await;
    world.start_history().await;
    world.until_equal(&[]).await;
    world.until("the follower is ready again", World::is_ready).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_follower_waits_and_takes_over() {
    let Some(mut world) = World::start().await else { return };
    let (room, mut events) = room_with("room", 3);
    world.homeserver.room(&room).await;
    world.homeserver.send(&room, &events.iter().collect::<Vec<_>>()).await;
    let first = world.another_follower("first.log", &[]);
    world.until_equal(&[]).await;
    let second = world.another_follower("second.log", &[]);
    until_logged(&mut world, &second, "another caller is the feeder", 1).await;
    send_more(&world, &room, &mut events).await;
    world.until_equal(&[]).await;
    assert!(!second.log().contains(" following"), "{}", second.log());
    drop(first);
    send_more(&world, &room, &mut events).await;
    world.until_equal(&[]).await;
    until_logged(&mut world, &second, " following", 1).await;

    // One that is stopped without a word loses the lease after ten seconds.
    second.signal("-STOP");
    send_more(&world, &room, &mut events).await;
    let third = world.another_follower("third.log", &[]);
    until_logged(&mut world, &third, " following", 1).await;
    world.until_equal(&[]).await;
    second.signal("-CONT");
    until_logged(&mut world, &second, "cannot follow, and try again", 2).await;
    send_more(&world, &room, &mut events).await;
    world.until_equal(&[]).await;
    assert_eq!(third.log().matches("cannot follow").count(), 1, "{}", third.log());
    assert_eq!(second.log().matches(" following").count(), 1, "{}", second.log());
}
