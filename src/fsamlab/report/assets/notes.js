// What stands below a chart: where the means of groups end, and over what they are.

const MAX_NAMED = 3;

/* Sentences on groups, those with the same words as one; beyond MAX_NAMED groups only how many there are. */
function merged(found, say, sayMany) {
  if (found.length > MAX_NAMED) return [sayMany(found.length)];
  return [...new Set(found.map(({ where }) => where))].map((where) => {
    const here = found.filter((cut) => cut.where === where);
    return `${here.map(({ label }) => label).join(", ")}: ${say(here[0], here.length > 1)}`;
  });
}

/* Which groups' means are drawn over a part of the axis only, and over which. */
function cutNote(metrics, axis) {
  const name = placeOf(axis);
  const cuts = shownGroups().flatMap(({ label, ...group }) => {
    const cut = metrics.map((metric) => cutOf(group, metric, axis)).find((found) => found !== null);
    return cut ? [{ label, ...cut }] : [];
  });
  const span = ({ from, to }) => {
    const start = from === null ? "" : `from ${name} ${format(from)}`;
    return [start, to === null ? "" : `to ${start ? "" : `${name} `}${format(to)}`].filter((part) => part).join(" ");
  };
  const [ended, apart, alone] = ["cut", "apart", "alone"].map((kind) => cuts.filter((cut) => cut.kind === kind));
  const runs = (n, several) => (several ? "all of their runs" : `all ${n} runs`);
  return [
    ...merged(
      ended.map((cut) => ({ ...cut, where: span(cut) })),
      ({ where, n }, several) => `drawn ${where}, where ${runs(n, several)} have values.`,
      (count) => `${count} groups are drawn only where all of a group's runs have values.`,
    ),
    ...merged(
      apart.map((cut) => ({ ...cut, where: "" })),
      () => `not drawn, no ${name} is in all runs.`,
      (count) => `${count} groups are not drawn: no ${name} is in all of a group's runs.`,
    ),
    ...merged(
      alone.map((cut) => ({ ...cut, where: cut.places.map(format).join(", ") })),
      ({ where }) => `the mean of values at ${name} ${where}.`,
      (count) => `${count} groups are means of values at different ${name}s.`,
    ),
  ].join(" ");
}
