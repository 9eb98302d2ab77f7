// Device queries through azure-iothub: pages, twins, raw results, refusals.
import assert from 'node:assert/strict';
import { before, test } from 'node:test';
import { createDevice, registry, unique } from './hub.mjs';

const prefix = unique('fleet');
const names = [0, 1, 2, 3, 4].map((number) => `${prefix}-${number}`);
const where = `WHERE STARTSWITH(deviceId, '${prefix}')`;

before(async () => {
  for (const name of names) await createDevice(name);
  await registry.addModule({ deviceId: names[1], moduleId: 'm1' });
});

/** All results, as a program with this SDK loops. */
const everything = async (text, size, next) => {
  const query = registry.createQuery(text, size);
  const results = [];
  let pages = 0;
  while (query.hasMoreResults) {
    // Without its argument `next` of this SDK begins again.
    results.push(...(await query[next](query.continuationToken)).result);
    pages += 1;
  }
  return { results, pages };
};

test('one device is one page of one twin', async () => {
  const query = registry.createQuery(`SELECT * FROM devices WHERE deviceId = '${names[2]}'`, 100);
  const { result } = await query.nextAsTwin();
  assert.equal(query.hasMoreResults, false);
  assert.equal(result.length, 1);
  assert.equal(result[0].deviceId, names[2]);
  assert.equal(result[0].connectionState, 'Disconnected');
});

test('pages have each device once', async () => {
  for (const size of [1, 2, 5, 100]) {
    const { results, pages } = await everything(`SELECT * FROM devices ${where}`, size, 'nextAsTwin');
    assert.deepEqual(results.map((twin) => twin.deviceId), names);
    assert.ok(pages <= 5 / size + 1, `${pages} pages of ${size}`);
  }
});

test('columns and aggregates are raw results', async () => {
  const columns = await everything(`SELECT deviceId AS id FROM devices ${where}`, 2, 'next');
  assert.deepEqual(columns.results, names.map((id) => ({ id })));
  const groups = await everything(`SELECT status, COUNT() AS n FROM devices ${where} GROUP BY status`, 10, 'next');
  assert.deepEqual(groups.results, [{ status: 'enabled', n: 5 }]);
});

test('modules are queried', async () => {
  const text = `SELECT * FROM devices.modules WHERE deviceId = '${names[1]}'`;
  const { results } = await everything(text, 10, 'nextAsTwin');
  assert.deepEqual(results.map((twin) => twin.moduleId), ['m1']);
});

test('no query is an error that names the place', async () => {
  await assert.rejects(registry.createQuery('SELECT * FROM devices WHERE', 10).next(), (error) => {
    assert.equal(error.name, 'ArgumentError', error.name);
    assert.match(error.message + (error.responseBody ?? ''), /line 1, column 28/);
    return true;
  });
});
