/** What the library takes: the domains of the cards, and the sentence about what is outside of one. */

/** Whether the library takes this number; null is no limit, and so is a domain that a card does not have. */
export function includes(domain, x) {
  if (!domain) return !Number.isNaN(x);
  if (domain.choices.length) return domain.choices.includes(x);
  const above = domain.low === null || (domain.low_open ? x > domain.low : x >= domain.low);
  const below = domain.high === null || (domain.high_open ? x < domain.high : x <= domain.high);
  return above && below;
}

/** delta must be positive, got -2 */
export const must = (name, domain, x) => `${name} must be ${domain?.description ?? "a number"}, got ${said(x)}`;

const said = (x) => (Number.isNaN(x) ? "no number" : x);

/** The domain of something given: of the switches that are on, or of those that would use it. */
export function domainOf(card, variant, name) {
  if (name in variant.domains) return variant.domains[name];
  return card.curve.variants.find(({ domains }) => name in domains)?.domains[name] ?? null;
}
