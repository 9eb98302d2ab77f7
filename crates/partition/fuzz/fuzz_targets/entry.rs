//! Bytes that a damaged disk or a broken peer could hand us as a log entry: never a panic, and what is readable adds up.
#![no_main]

use holdfast_partition_fuzz::record::{EntryView, RecordView, Records};
use libfuzzer_sys::fuzz_target;

fn check_properties(record: &RecordView<'_>) {
    assert_eq!(record.properties().count(), record.properties().len());
}

fuzz_target!(|bytes: &[u8]| {
    if let Ok(record) = RecordView::parse(bytes) {
        check_properties(&record);
    }
    let Ok(view) = EntryView::parse(bytes) else { return };
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
