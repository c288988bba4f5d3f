//! Cases with a router, and the rules of routing.

use super::{expect_all, find};
use crate::plants::Plant;

#[test]
fn simulation_with_a_router() {
    expect_all(0..64, true);
}

/// As [`find`], in cases with a router.
fn expect_found(plant: Plant, seeds: std::ops::Range<u64>, by: &str) {
    find(plant, true, seeds, by);
}

#[test]
fn finds_a_cursor_that_is_stored_before_the_rows() {
    expect_found(Plant::RoutedBeforeRows, 0..60, "had seen");
}

#[test]
fn finds_a_round_of_an_epoch_that_is_over() {
    expect_found(Plant::EpochNotChecked, 60..70, "has deliveries");
}

#[test]
fn finds_two_rounds_of_one_epoch() {
    expect_found(Plant::EpochNotRaised, 20..30, "had seen");
}

#[test]
fn finds_a_message_that_is_routed_after_its_end() {
    expect_found(Plant::StatusNotChecked, 0..10, "was over before");
}

#[test]
fn finds_a_message_that_is_routed_beside_its_deliveries() {
    expect_found(Plant::DeliveryNotChecked, 0..10, "has deliveries");
}

#[test]
fn finds_a_cursor_that_is_the_snapshot_of_another_moment() {
    expect_found(Plant::SnapshotOfAnother, 0..10, "had seen");
}

#[test]
fn finds_transactions_in_progress_that_are_forgotten() {
    expect_found(Plant::InProgressForgotten, 0..10, "had seen");
}

#[test]
fn finds_an_id_that_is_drawn_after_the_sequence_is_read() {
    expect_found(Plant::IdAfterRead, 250..260, "nobody is the router");
}

#[test]
fn finds_a_row_that_is_given_back_too_early() {
    expect_found(Plant::DrainedTooEarly, 0..10, "is given back");
}

#[test]
fn finds_a_lapse_without_a_probe() {
    expect_found(Plant::NoProbe, 0..10, "had seen");
}

#[test]
fn finds_a_drain_that_lets_the_sequence_lapse() {
    expect_found(Plant::NotWrittenWhileDraining, 9..10, "had seen");
}

#[test]
fn finds_a_takeover_that_goes_on_from_now() {
    expect_found(Plant::TakenFromNow, 0..10, "had seen");
}

#[test]
fn finds_a_sequence_that_is_written_beside_the_fence() {
    expect_found(Plant::SequenceBesideFence, 100..101, "silent");
}

#[test]
fn finds_an_order_by_transaction() {
    expect_found(Plant::OrderByTransaction, 0..10, "had seen");
}

#[test]
fn finds_a_bulk_insert_that_overtakes() {
    expect_found(Plant::BulkOvertakes, 0..10, "had seen");
}

#[test]
fn finds_left_rows_that_overtake_others_of_their_transaction() {
    expect_found(Plant::OwnLeftFirst, 0..10, "had seen");
}

#[test]
fn finds_an_end_that_a_poller_does_not_note() {
    expect_found(Plant::NotNoted, 50..60, "its delivery stays");
}

#[test]
fn finds_a_row_that_names_a_broker_without_its_knowing() {
    expect_found(Plant::OwnRowNotSeen, 160..170, "not routed");
}
