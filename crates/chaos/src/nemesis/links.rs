//! Faults of the links between nodes.

use anyhow::{Context as _, Result};
use rand::Rng as _;

use super::Kind;
use super::injection::{Hit, Nemesis};
use crate::net::{HOST, Link};

impl Nemesis<'_> {
    pub(super) fn cut(&mut self, kind: Kind, target: u32) -> Result<Hit> {
        let mut others: Vec<u32> = self
            .cluster
            .members()
            .into_iter()
            .filter(|node| *node != target)
            .collect();
        if kind == Kind::Split {
            others = vec![self.other(target)?];
        }
        if kind == Kind::IsolateFully {
            others.push(HOST);
        }
        let links = self.cluster.network.links().context("there are no links")?.clone();
        let cut = Link {
            cut: true,
            ..Link::default()
        };
        let began = self.now();
        for other in &others {
            if kind != Kind::Deaf {
                links.set(target, *other, cut.clone());
            }
            if kind != Kind::Mute {
                links.set(*other, target, cut.clone());
            }
        }
        let time = self.wait(2_000..12_000);
        links.heal();
        let time = time?;
        self.hit(
            vec![target],
            began,
            format!("{} for {time} ms, from {others:?}", kind.name()),
        )
    }

    pub(super) fn degrade(&mut self, kind: Kind, target: u32) -> Result<Hit> {
        let members = self.cluster.members();
        let link = if kind == Kind::Loss {
            Link {
                loss: self.cluster.rng.random_range(0.02..0.25),
                ..Link::default()
            }
        } else {
            let least = self.cluster.draw(1_000..40_000);
            Link {
                delay_us: least..least * 2,
                ..Link::default()
            }
        };
        let links = self.cluster.network.links().context("there are no links")?.clone();
        let everywhere = self.cluster.rng.random();
        let began = self.now();
        for from in &members {
            for to in members.iter().filter(|to| *to != from) {
                if everywhere || *from == target || *to == target {
                    links.set(*from, *to, link.clone());
                }
            }
        }
        let time = self.wait(3_000..12_000);
        links.heal();
        let time = time?;
        let place = if everywhere { "all links" } else { "its links" };
        self.hit(
            vec![target],
            began,
            format!(
                "{place}: loss {:.2}, delay {:?} us, for {time} ms",
                link.loss, link.delay_us
            ),
        )
    }
}
