//! The catalogue as the detector needs it: which entities there are, and which stand behind each
//! target. An *entity* is a provider in one role, with at least three targets; of fewer, nothing
//! is said but of the sites themselves.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tocsin_proto::{
    catalogue::Catalogue,
    id::{Id, TargetIndex},
    implicate::{Implication, Layer, Layers},
};

/// Targets an entity needs before a verdict on it is possible.
pub const ENTITY_TARGETS_MIN: usize = 3;
/// Entities at most: their sets are the bits of one number.
pub const ENTITIES_MAX: usize = 128;

/// Never a top-level domain (RFC 6761, section 6.4): what has no name of its own stands under it.
const NO_TLD: &str = "invalid";

/// Number of an entity in a [`Plan`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EntityIndex(pub u8);

/// A set of entities.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Entities(pub u128);

impl Entities {
    /// Whether it is in the set.
    #[must_use]
    pub const fn has(self, entity: EntityIndex) -> bool {
        self.0 >> entity.0 & 1 == 1
    }

    /// Puts it in.
    pub const fn insert(&mut self, entity: EntityIndex) {
        self.0 |= 1 << entity.0;
    }

    /// What is in the one or the other, but not in both.
    #[must_use]
    pub const fn differing(self, other: Self) -> Self {
        Self(self.0 ^ other.0)
    }

    /// What is in either.
    #[must_use]
    pub const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// What is in both.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Whether nothing is in it.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Every member, in order.
    pub fn iter(self) -> impl Iterator<Item = EntityIndex> {
        let mut left = self.0;
        std::iter::from_fn(move || {
            let next = u8::try_from(left.trailing_zeros()).ok().filter(|_| left != 0)?;
            left &= left - 1;
            Some(EntityIndex(next))
        })
    }
}

/// A provider in a role.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entity {
    /// Which provider.
    pub provider: Id,
    /// In which role.
    pub layer: Layer,
    /// The targets behind it.
    pub targets: Vec<TargetIndex>,
}

impl Entity {
    /// The name of the rule that it is not this one.
    #[must_use]
    pub fn not(&self) -> String {
        format!("not.{}.{}", self.provider, format!("{:?}", self.layer).to_ascii_lowercase())
    }
}

/// What stands behind one target.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Behind {
    entities: Vec<(Layer, EntityIndex)>,
    /// The same, as a set.
    set: Entities,
    has_edge: bool,
}

impl Behind {
    /// The entities with their roles.
    #[must_use]
    pub fn entities(&self) -> &[(Layer, EntityIndex)] {
        &self.entities
    }

    /// The entities as a set, whatever their roles.
    #[must_use]
    pub const fn set(&self) -> Entities {
        self.set
    }

    /// Whether the entity stands behind this target, in whatever role.
    #[must_use]
    pub const fn has(&self, entity: EntityIndex) -> bool {
        self.set.has(entity)
    }

    /// The edge, where it is an entity.
    #[must_use]
    pub fn edge(&self) -> Option<EntityIndex> {
        self.entities.iter().find(|(layer, _)| *layer == Layer::Edge).map(|(_, e)| *e)
    }

    /// The layers a set means here: where there is no edge, what is said of the edge is said of
    /// the hosting.
    #[must_use]
    pub const fn layers(&self, layers: Layers) -> Layers {
        if layers.has(Layer::Edge) && !self.has_edge {
            layers.and(Layers::of(&[Layer::Hosting]))
        } else {
            layers
        }
    }

    fn among(&self, layers: Layers) -> impl Iterator<Item = EntityIndex> {
        let layers = self.layers(layers);
        self.entities.iter().filter(move |(layer, _)| layers.has(*layer)).map(|(_, e)| *e)
    }

    /// Entities that an implication blames in full, blames by half, and clears.
    pub fn blamed(&self, implication: &Implication) -> impl Iterator<Item = EntityIndex> {
        self.among(implication.full)
    }

    /// Entities that are blamed by half.
    pub fn half_blamed(&self, implication: &Implication) -> impl Iterator<Item = EntityIndex> {
        self.among(implication.half)
    }

    /// Entities that are shown to work.
    pub fn cleared(&self, implication: &Implication) -> impl Iterator<Item = EntityIndex> {
        self.among(implication.clears)
    }
}

/// Entities and targets, numbered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    entities: Vec<Entity>,
    /// By target number; `None` for numbers that the catalogue does not have.
    behind: Vec<Option<Behind>>,
}

impl Plan {
    /// From a catalogue; roles known from fair memory only decide nothing.
    #[must_use]
    pub fn new(catalogue: &Catalogue) -> Self {
        let mut entities = Self::entities_of(catalogue);
        // Of more than fit, those with the most targets: the others are seen as sites only.
        if entities.len() > ENTITIES_MAX {
            entities.sort_by_key(|entity| std::cmp::Reverse(entity.targets.len()));
            entities.truncate(ENTITIES_MAX);
            entities.sort_by(|a, b| (&a.provider, a.layer).cmp(&(&b.provider, b.layer)));
        }
        let size = catalogue.targets().keys().next_back().map_or(0, |last| usize::from(last.0) + 1);
        let mut behind: Vec<Option<Behind>> = vec![None; size];
        for (index, target) in catalogue.targets() {
            let has_edge = target.roles.iter().any(|role| role.role == Layer::Edge);
            if let Some(place) = behind.get_mut(usize::from(index.0)) {
                *place = Some(Behind { has_edge, ..Behind::default() });
            }
        }
        for (at, entity) in (0u8..).zip(&entities) {
            for target in &entity.targets {
                if let Some(Some(behind)) = behind.get_mut(usize::from(target.0)) {
                    behind.entities.push((entity.layer, EntityIndex(at)));
                    behind.set.insert(EntityIndex(at));
                }
            }
        }
        Self { entities, behind }
    }

    /// How many there are beyond those that fit.
    #[must_use]
    pub fn left_out(catalogue: &Catalogue) -> usize {
        Self::entities_of(catalogue).len().saturating_sub(ENTITIES_MAX)
    }

    fn entities_of(catalogue: &Catalogue) -> Vec<Entity> {
        let mut targets: BTreeMap<(Id, Layer), Vec<TargetIndex>> = BTreeMap::new();
        for (index, target) in catalogue.targets() {
            // A top-level domain is known from the name itself.
            if let Ok(tld) = target.tld().parse::<Id>()
                && tld.as_str() != NO_TLD
            {
                targets.entry((tld, Layer::Tld)).or_default().push(*index);
            }
            for role in target.deciding_roles() {
                targets.entry((role.provider.clone(), role.role)).or_default().push(*index);
            }
        }
        targets
            .into_iter()
            .filter(|(_, targets)| targets.len() >= ENTITY_TARGETS_MIN)
            .map(|((provider, layer), targets)| Entity { provider, layer, targets })
            .collect()
    }

    /// How many entities there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.entities.len()
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.entities.is_empty()
    }

    /// The entities with their numbers.
    pub fn entities(&self) -> impl Iterator<Item = (EntityIndex, &Entity)> {
        (0u8..).map(EntityIndex).zip(&self.entities)
    }

    /// One entity.
    ///
    /// # Panics
    /// When the number is of another plan.
    #[must_use]
    pub fn entity(&self, index: EntityIndex) -> &Entity {
        self.entities.get(usize::from(index.0)).expect("numbers come from this plan")
    }

    /// What stands behind a target; nothing behind one that is not in the catalogue.
    #[must_use]
    pub fn behind(&self, target: TargetIndex) -> Option<&Behind> {
        self.behind.get(usize::from(target.0))?.as_ref()
    }

    /// Every target.
    pub fn targets(&self) -> impl Iterator<Item = (TargetIndex, &Behind)> {
        (0..).map(TargetIndex).zip(&self.behind).filter_map(|(index, b)| Some((index, b.as_ref()?)))
    }
}
