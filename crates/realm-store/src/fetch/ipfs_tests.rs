//! Files of IPFS from gateways of this test that are honest, lie or have no end.

use std::collections::BTreeMap;

use realm_model::content_id::{BlockKind, ContentId};
use realm_model::manifest::IpfsSource;

use super::download_tests::{Peer, Then};
use super::origin_tests::{Fake, blamed, fetched, no, ok, resolved};
use super::unixfs::Part;
use super::unixfs::testing::{file, folder};
use super::*;
use crate::testing::payload;

/// A file in pieces of this many bytes, in a tree of nodes with so many parts each.
fn import(bytes: &[u8], piece: usize, width: usize) -> (ContentId, BTreeMap<String, Bytes>) {
    let mut blocks = BTreeMap::new();
    let mut level: Vec<Part> = bytes
        .chunks(piece)
        .map(|piece| {
            keep(
                &mut blocks,
                BlockKind::Raw,
                Bytes::copy_from_slice(piece),
                piece.len() as u64,
            )
        })
        .collect();
    while level.len() > 1 {
        level = level
            .chunks(width)
            .map(|parts| {
                let size = parts.iter().map(|part| part.size).sum();
                keep(&mut blocks, BlockKind::Node, file(b"", parts), size)
            })
            .collect();
    }
    (level[0].cid, blocks)
}

fn keep(blocks: &mut BTreeMap<String, Bytes>, kind: BlockKind, block: Bytes, size: u64) -> Part {
    let cid = ContentId::of(kind, &block);
    blocks.insert(format!("/ipfs/{cid}?format=raw"), block);
    Part { cid, size }
}

async fn gateway(blocks: BTreeMap<String, Bytes>) -> Fake {
    Fake::serve(move |path, _| blocks.get(path).cloned().map_or_else(no, ok)).await
}

fn gateways(fakes: &[&Fake]) -> Origins {
    Origins {
        ipfs_gateways: fakes
            .iter()
            .map(|fake| format!("http://{}", fake.address))
            .collect(),
        ..Origins::default()
    }
}

fn ipfs(cid: ContentId, path: &[&str]) -> Source {
    Source::Ipfs(IpfsSource {
        cid,
        path: path.iter().map(|name| (*name).to_owned()).collect(),
        digest: None,
    })
}

#[tokio::test]
async fn a_file_of_ipfs_is_put_together_from_its_blocks() {
    let bytes = payload(1, 100_000);
    for (piece, width) in [(100_000, 2), (30_000, 8), (1_000, 3)] {
        let (cid, blocks) = import(&bytes, piece, width);
        let count = blocks.len();
        let fake = gateway(blocks).await;
        let (source, origins) = (ipfs(cid, &[]), gateways(&[&fake]));
        assert_eq!(resolved(&source, &origins).await, Ok(bytes.clone().into()));
        assert_eq!(fake.asked().len(), count);
        // What is here already is not fetched again.
        for here in [1, 30_000, 99_999] {
            let before = fake.asked().len();
            let got = fetched(&source, &origins, &bytes, here, &[])
                .await
                .expect("whole");
            assert!(got.faults.is_empty(), "{:?}", got.faults);
            let blocks = fake.asked().len() - before;
            assert!(
                blocks <= count && (here < 99_999 || count < 9 || blocks < 9),
                "{here}: {blocks}"
            );
        }
    }
}

#[tokio::test]
async fn a_file_in_a_folder_is_found_by_its_name() {
    let bytes = payload(1, 50_000);
    let (cid, mut blocks) = import(&bytes, 20_000, 8);
    let inner = keep(
        &mut blocks,
        BlockKind::Node,
        folder(&[("orders.wasm", cid)]),
        0,
    )
    .cid;
    let outer = keep(
        &mut blocks,
        BlockKind::Node,
        folder(&[("a", cid), ("build", inner)]),
        0,
    )
    .cid;
    let origins = gateways(&[&gateway(blocks).await]);
    let found = resolved(&ipfs(outer, &["build", "orders.wasm"]), &origins).await;
    assert_eq!(found, Ok(bytes.clone().into()));
    let none = resolved(&ipfs(outer, &["build", "x.wasm"]), &origins).await;
    blamed(none, &["source-unusable", "no `x.wasm`", "`orders.wasm`"]);
    let none = resolved(&ipfs(cid, &["x.wasm"]), &origins).await;
    blamed(none, &["source-unusable", "in a file"]);
    let whole = resolved(&ipfs(outer, &[]), &origins).await;
    blamed(whole, &["source-unusable", "is a folder", "`a`, `build`"]);
}

/// A file of `payload(1, 700_000)` in a folder `build`, as the importer of the IPFS project makes the
/// two (ipfs-unixfs-importer 17.1.1, pieces of 256 KiB as Kubo's): both forms that are about.
const MADE: [(&str, &str, &str, &str); 2] = [
    (
        "QmezjoRD2uJ3TfSzta7SRbs1N8Sw3Y2JYUWR47RGVq9m1u",
        "12350a2212203a8acb6812e622a4ef50b1bee5fb3aea2e4ea6224356e183f93f4f127564895d120b6f72646572732e7761736d18a2de2a0a020801",
        "QmSHB78v2FzgtRFQq78NPipjERmrDbeo5C4yYss9yrwty2",
        "122a0a22122083c7d724694f60f71ba9f2b0ef75c0302c66a92a30520f0e231f3c476d4a16081200188e8010122a0a2212206f83774e8521eb93eb69b4fac90a47ce4d9b9c122c103057c92fd5fc6801b4701200188e8010122a0a22122000f759ddc8e295a9b7b9e3f7e2d411a7bdfa9a64f5b783b45621e20ed005c0a8120018eedc0a0a12080218e0dc2a208080102080801020e0dc0a",
    ),
    (
        "bafybeift7armcy6srisiecotwzxu5ong6736ys6fptrxsljtxau6ujcpa4",
        "12370a2401701220b90558a42fb91df2527f27a9d3ab0725a5abccc3d89cd552a60b636383f54775120b6f72646572732e7761736d18fedd2a0a020801",
        "bafybeifzavmkil5zdxzfe7zhvhj2wbzfuwv4zq6yttkvfjqlmnryh5khou",
        "122c0a24015512206e362e9bd59ddc4eead322d03bf8c345b49536d53fda6ce969ca5d8a6dda6665120018808010122c0a2401551220422eea2ff75b95147a01765f3990848d0e20f29129a24c826341fe83db4eb704120018808010122c0a2401551220072395a5435cf4563dc8ac09f66fb246142a0f8ee75a7bc4e84b38ef1b1fed50120018e0dc0a0a12080218e0dc2a208080102080801020e0dc0a",
    ),
];

/// A leaf of the older form: a node without links, `data` and its length in it.
fn old_leaf(bytes: &[u8]) -> Bytes {
    let field = |tag: u8, length: usize| {
        let mut field = vec![tag];
        prost::encoding::encode_varint(length as u64, &mut field);
        field
    };
    let (data, size) = (field(0x12, bytes.len()), field(0x18, bytes.len()));
    let inner = [&[0x08, 0x02], &data[..], bytes, &size].concat();
    [&field(0x0a, inner.len())[..], &inner].concat().into()
}

#[tokio::test]
async fn what_the_tools_of_ipfs_make_is_read() {
    let bytes = payload(1, 700_000);
    for (folder, folder_block, root, root_block) in MADE {
        let mut blocks = BTreeMap::new();
        for (cid, hex) in [(folder, folder_block), (root, root_block)] {
            let pairs = hex.as_bytes().chunks(2);
            let pairs = pairs.map(|pair| std::str::from_utf8(pair).expect("hex"));
            let block: Result<Vec<u8>, _> =
                pairs.map(|pair| u8::from_str_radix(pair, 16)).collect();
            blocks.insert(
                format!("/ipfs/{cid}?format=raw"),
                Bytes::from(block.expect("hex")),
            );
        }
        for piece in bytes.chunks(256 * 1024) {
            let (cid, block) = match folder.starts_with("Qm") {
                true => {
                    let block = old_leaf(piece);
                    let hash = [&[0x12, 0x20], &Digest::of(&block).as_bytes()[..]].concat();
                    (ContentId::from_bytes(&hash).expect("a CID"), block)
                }
                false => (
                    ContentId::of(BlockKind::Raw, piece),
                    Bytes::copy_from_slice(piece),
                ),
            };
            blocks.insert(format!("/ipfs/{cid}?format=raw"), block);
        }
        let fake = gateway(blocks).await;
        let origins = gateways(&[&fake]);
        let source = ipfs(folder.parse().expect("a CID"), &["orders.wasm"]);
        assert_eq!(
            resolved(&source, &origins).await,
            Ok(bytes.clone().into()),
            "{folder}"
        );
        let got = fetched(&source, &origins, &bytes, 300_000, &[])
            .await
            .expect("the rest");
        assert!(got.faults.is_empty(), "{:?}", got.faults);
    }
}

#[tokio::test]
async fn case_27_a_gateway_that_serves_another_block_is_blamed_and_the_next_one_asked() {
    let bytes = payload(1, 100_000);
    let (cid, blocks) = import(&bytes, 30_000, 8);
    let honest = gateway(blocks.clone()).await;
    // Any block may be the wrong one: the first, or one in the middle.
    for wrong in blocks.keys() {
        let mut blocks = blocks.clone();
        blocks.insert(wrong.clone(), Bytes::from_static(b"other bytes"));
        let liar = gateway(blocks).await;
        let source = ipfs(cid, &[]);
        let name = format!(
            "`ipfs://{cid} at http://{}` gave other bytes for the block",
            liar.address
        );
        blamed(
            resolved(&source, &gateways(&[&liar])).await,
            &["digest-mismatch", &name],
        );

        let origins = gateways(&[&liar, &honest]);
        assert_eq!(resolved(&source, &origins).await, Ok(bytes.clone().into()));
        let peer = Peer::new("peer", &payload(2, bytes.len()), Then::End);
        let got = fetched(&source, &origins, &bytes, 0, &[&peer])
            .await
            .expect("by the next");
        let from = format!("ipfs://{cid} at http://{}", honest.address);
        assert_eq!(got.from, Some(from));
        let faults: Vec<String> = got.faults.iter().map(ToString::to_string).collect();
        assert_eq!(faults.len(), 2, "{faults:?}");
        assert!(
            faults[0].starts_with("`peer` has other bytes"),
            "{faults:?}"
        );
        assert!(faults[1].starts_with(&name), "{faults:?}");
    }
}

/// Whoever made the blocks may lie as well: what is signed is the digest of the component.
#[tokio::test]
async fn case_27_a_cid_of_other_bytes_than_were_signed_is_refused() {
    let (signed, other) = (payload(1, 50_000), payload(2, 50_000));
    let (cid, blocks) = import(&other, 20_000, 8);
    let fake = gateway(blocks).await;
    for here in [0, 25_000] {
        let error = fetched(&ipfs(cid, &[]), &gateways(&[&fake]), &signed, here, &[]).await;
        let error = error.map_err(|error| format!("{} {error}", error.code()));
        blamed(error, &["digest-mismatch", &format!("`ipfs://{cid} at")]);
    }
}

#[tokio::test]
async fn a_tree_without_end_is_given_up() {
    let mut blocks = BTreeMap::new();
    let mut part = keep(&mut blocks, BlockKind::Raw, Bytes::from_static(b"x"), 1);
    for _ in 0..=DEPTH_MAX {
        part = keep(&mut blocks, BlockKind::Node, file(b"", &[part]), 1);
    }
    let deep = part.cid;
    let many = vec![part; PARTS_MAX + 1];
    let many = keep(&mut blocks, BlockKind::Node, file(b"", &many), 1).cid;
    let large = Part {
        cid: deep,
        size: u64::MAX,
    };
    let large = keep(&mut blocks, BlockKind::Node, file(b"", &[large, large]), 1).cid;
    let big = Bytes::from(vec![0; BLOCK_BYTES_MAX + 1]);
    let big = keep(&mut blocks, BlockKind::Raw, big, 1).cid;
    let origins = gateways(&[&gateway(blocks).await]);
    for (cid, part) in [
        (deep, "source-unusable"),
        (many, "more than"),
        (large, "oversized"),
        (big, "oversized"),
        (ContentId::of(BlockKind::Raw, b"none"), "fetch-failed"),
    ] {
        blamed(resolved(&ipfs(cid, &[]), &origins).await, &[part]);
    }
}

#[tokio::test]
async fn without_a_gateway_peers_are_asked_all_the_same() {
    let bytes = payload(1, 1_000);
    let cid = ContentId::of(BlockKind::Raw, &bytes);
    let none = gateways(&[]);
    let peer = Peer::new("bm-01", &bytes, Then::End);
    let got = fetched(&ipfs(cid, &[]), &none, &bytes, 0, &[&peer])
        .await
        .expect("by a peer");
    assert_eq!(got.from.as_deref(), Some("bm-01"));
    blamed(
        resolved(&ipfs(cid, &[]), &none).await,
        &["bad-source-setting", "gateways"],
    );
}
