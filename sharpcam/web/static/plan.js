// The study's arithmetic: which triplets are shown, and what the ratings say.

// Every trial is three versions of one scene in random order. Versions are shown equally often, as far as it comes
// out even; scenes take turns. `random` gives numbers from 0 to 1.
export function plan(scenes, versions, trials, random = Math.random) {
  const shown = new Map(versions.map((version) => [version, 0]));
  const turns = [];
  return Array.from({ length: trials }, () => {
    if (!turns.length) turns.push(...shuffled(scenes, random));
    const rare = shuffled(versions, random).sort((a, b) => shown.get(a) - shown.get(b)).slice(0, 3);
    for (const version of rare) shown.set(version, shown.get(version) + 1);
    return { scene: turns.pop(), versions: shuffled(rare, random) };
  });
}

// The names, with a number behind those that were there before.
export function distinct(names) {
  const taken = new Set();
  return names.map((name) => {
    let free = name;
    for (let number = 2; taken.has(free); number += 1) free = `${name} (${number})`;
    taken.add(free);
    return free;
  });
}

// Fisher and Yates
export function shuffled(values, random = Math.random) {
  const out = [...values];
  for (let last = out.length - 1; last > 0; last -= 1) {
    const other = Math.floor(random() * (last + 1));
    [out[last], out[other]] = [out[other], out[last]];
  }
  return out;
}

// For each version: how many ratings, their mean, their sample standard deviation (null for one), how many of each.
export function summary(ratings, versions) {
  return versions.map((version) => {
    const given = ratings.filter((rating) => rating.version === version).map((rating) => rating.rating);
    const count = given.length;
    const mean = given.reduce((sum, value) => sum + value, 0) / count;
    const squares = given.reduce((sum, value) => sum + (value - mean) ** 2, 0);
    return {
      version, count,
      mean: count ? mean : null,
      spread: count > 1 ? Math.sqrt(squares / (count - 1)) : null,
      counts: [1, 2, 3, 4, 5].map((value) => given.filter((rating) => rating === value).length),
    };
  });
}

const COLUMNS = ["rater", "trial", "scene", "position", "version", "rating", "seconds"];

// All ratings, one a line, as RFC 4180 wants it.
export function csv(ratings) {
  const lines = [COLUMNS, ...ratings.map((rating) => COLUMNS.map((column) => rating[column]))];
  return lines.map((line) => line.map(field).join(",")).join("\r\n") + "\r\n";
}

function field(value) {
  let text = String(value ?? "");
  if (/^[=+\-@\t]/.test(text)) text = `'${text}`; // a spreadsheet would take it for a formula
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}
