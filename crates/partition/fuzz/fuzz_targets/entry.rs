//! Bytes that a damaged disk or a broken peer could give as a log entry: never a panic; readable parts are consistent, and
//! readable effects are written as they are read.
#![no_main]

use holdfast_model::UnixMillis;
use holdfast_partition_fuzz::record::{
    BatchHeader, BatchWriter, Effect, EntryView, PartitionCommand, RecordView, Records,
};
use libfuzzer_sys::fuzz_target;

fn check_properties(record: &RecordView<'_>) {
    assert_eq!(record.properties().count(), record.properties().len());
}

/// The effects of an entry; those that fit an entry read back from it.
fn check_effects(view: &EntryView<'_>) {
    let effects: Vec<Effect<'_>> = view.commands().filter_map(effect).collect();
    let Some(owner) = view.header().owner else {
        assert!(effects.is_empty(), "effects have an owner");
        return;
    };
    let mut writer = BatchWriter::new();
    if !effects.iter().all(|effect| writer.push_effect(owner, effect).is_ok()) || effects.is_empty() {
        return;
    }
    let written = writer.close(BatchHeader::of_owner(UnixMillis(1)));
    let view = EntryView::parse(&written).expect("just written");
    let read: Vec<Effect<'_>> = view.commands().filter_map(effect).collect();
    assert_eq!(read, effects);
}

fn effect(command: PartitionCommand<'_>) -> Option<Effect<'_>> {
    match command {
        PartitionCommand::Telemetry(_) => None,
        PartitionCommand::Effect(effect) => Some(effect),
    }
}

fuzz_target!(|bytes: &[u8]| {
    if let Ok(record) = RecordView::parse(bytes) {
        check_properties(&record);
    }
    let Ok(view) = EntryView::parse(bytes) else { return };
    check_effects(&view);
    let mut records = view.records();
    let mut seen = 0;
    while let Some(record) = records.next() {
        seen += 1;
        if let Ok(record) = record {
            check_properties(&record);
        }
    }
    assert_eq!(seen, view.header().records, "damaged records are counted as well");
    assert!(Records::resume(bytes, records.offset()).next().is_none());
});
